"""pyfw's tracking against the kernel's: the same packets through both, opinion by opinion, table line by table line."""
