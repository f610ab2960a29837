// Package transfer is the engine of the client verbs (mb, rb, ls, cp, mv, rm, cat, stat) against any S3
// endpoint: names and profiles, plans, parallel and resumable copies, verification.
//
// It promises that a file or object appears under its name only whole and checked, that an interrupted
// transfer goes on where it stopped, that nothing is written outside the target directory whatever names the
// far side holds, that a move removes its source only after the destination was verified, and that memory
// and parallelism stay within the stated options. It talks S3 as any client does: it must never import a
// package that serves (object, s3api, node), and never print or exit.
package transfer
