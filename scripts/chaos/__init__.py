"""`make chaos`: faults done to a committee of real replica processes while clients keep it busy (see `__main__`)."""
