//go:build tools

// Package programs names what is built from this module, so that go.mod and go.sum hold all of it and no more.
package programs

import (
	_ "sigs.k8s.io/kwok/cmd/kwok"
)
