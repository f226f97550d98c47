"""The operator's command line, `sluicectl`: what a deployment is told and asked, on AWS or locally."""
