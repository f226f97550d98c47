"""Writes the events of `tests/events`."""

from tools.events import FOLDER, Names, write

if __name__ == "__main__":
    write(FOLDER, Names())
