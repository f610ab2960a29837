package s3api

// coreRoutes are the operations on the service, buckets and objects.
func coreRoutes() []route { return nil }
