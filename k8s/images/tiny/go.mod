module berth.dev/tiny

go 1.21
