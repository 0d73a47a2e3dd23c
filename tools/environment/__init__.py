"""What makes the project's environment: virtual environment, Horovod's wheel, Java. Standard library only."""
