// Package firn is the vocabulary of the product: error kinds and the few types every layer shares.
//
// It promises to stay small, to do no I/O and to import only the standard library.
// It must never import another package of this module.
package firn

// Version is the release of this binary. Release builds set it with
// -ldflags "-X firn.Version=v1.2.3"; it is never written at run time.
var Version = "v0.1.0-dev"
