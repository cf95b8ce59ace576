module berth.local/cluster/tiny

go 1.22
