return operations[ARGV[1]](unpack(ARGV, 2))
