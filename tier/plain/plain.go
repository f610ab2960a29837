// Package plain is the layout of a tier that people and other tools can read: one blob for each version, named after
// it, and a catalogue from which the namespace of a lost site is made again.
//
// It owns names, the mark of a tier and the catalogue's format, docs/format/tier-plain.md. It promises that two versions
// never share a name, that a tier of one site is never taken for another's, and that a catalogue that was cut off or
// damaged is found. It must never import the namespace: what a record is, its caller knows.
package plain
