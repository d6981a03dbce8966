"""`farm bench`: how fast this machine renders, with the farm's engine and with what people would use instead."""
