"""Keeps a record of each rejection, so that refused events can be found, understood and sent again."""
