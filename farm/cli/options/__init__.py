"""What people write on a command line: options that commands share, and the small languages inside them."""
