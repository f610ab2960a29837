package node

import (
	"context"

	"firn"
	"firn/adminapi"
	"firn/object"
)

var errNoCheck = firn.NewError(firn.Unsupported, "this build has no check")

func check(_ context.Context, _ *object.Store, _ adminapi.CheckOptions, _ func(adminapi.Problem) error) (adminapi.CheckSummary, error) {
	return adminapi.CheckSummary{}, errNoCheck
}

// CheckOffline checks a data directory that no site runs on.
func CheckOffline(_ context.Context, _ string, _ adminapi.CheckOptions, _ func(adminapi.Problem) error) (adminapi.CheckSummary, error) {
	return adminapi.CheckSummary{}, errNoCheck
}
