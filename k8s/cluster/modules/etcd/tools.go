//go:build tools

// Package programs names what is built from this module, so that go.mod and go.sum hold all of it and no more.
package programs

import (
	_ "go.etcd.io/etcd/server/v3"
)
