"""The command line. Command modules import their work when they run, so that ``edge --help`` stays light."""
