"""What the plugins bring is run by tests/labelers/test_plugins.py, where they are installed."""

collect_ignore_glob = ["*_labeler/*"]
