"""Preparing data sets from the command line: options as data, and the work they ask for."""
