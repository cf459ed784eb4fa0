"""What the three scripts share: the command line and its checks, and the script runner."""
