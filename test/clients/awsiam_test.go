package clients

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"firn/test/server"
)

// awsIAMSteps is the job of the AWS command line client with users, roles and temporary credentials.
func awsIAMSteps(t *testing.T, b *bench) []step {
	b.need(t, "/usr/bin/aws", "aws")
	config := b.file(t, "config/aws", "[default]\nregion = us-east-1\ns3 =\n  addressing_style = path\n  signature_version = s3v4\n")
	as := func(access, secret, token string) []string {
		return []string{
			"AWS_ACCESS_KEY_ID=" + access, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=" + token,
			"AWS_CONFIG_FILE=" + config, "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=",
		}
	}
	b.env = slices.DeleteFunc(as(server.AccessKey, server.SecretKey, ""), func(s string) bool { return s == "AWS_SESSION_TOKEN=" })
	b.args = []string{"--endpoint-url", b.server.URL(), "--output", "json"}
	bucket := b.bucket("main")
	object := b.random(t, "object.bin", smallSize)
	call := func(t *testing.T, out any, args ...string) {
		t.Helper()
		if s := b.run(t, args...); out != nil {
			if err := json.Unmarshal([]byte(s), out); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, s)
			}
		}
	}
	// other runs the client with other credentials and returns what it printed.
	other := func(t *testing.T, env []string, args ...string) (string, error) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), b.bin, append(slices.Clone(b.args), args...)...)
		cmd.Env, cmd.Dir = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + b.dir}, slices.DeleteFunc(slices.Clone(env), func(s string) bool {
			return s == "AWS_SESSION_TOKEN="
		})...), b.dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	denied := func(t *testing.T, env []string, args ...string) {
		t.Helper()
		if out, err := other(t, env, args...); err == nil || !strings.Contains(out, "AccessDenied") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	allowed := func(t *testing.T, env []string, args ...string) string {
		t.Helper()
		out, err := other(t, env, args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	type credentials struct{ AccessKeyID, SecretAccessKey, SessionToken string }
	var user, role []string
	var userARN, roleARN, policyARN string
	get := []string{"s3api", "get-object", "--bucket", bucket, "--key", "open/x", "down.bin"}
	put := []string{"s3api", "put-object", "--bucket", bucket, "--key", "open/y", "--body", object}
	return []step{
		{"a user with a key", func(t *testing.T) {
			call(t, nil, "s3api", "create-bucket", "--bucket", bucket)
			call(t, nil, "s3api", "put-object", "--bucket", bucket, "--key", "open/x", "--body", object)
			var made struct{ User struct{ Arn string } }
			call(t, &made, "iam", "create-user", "--user-name", "dora", "--path", "/staff/", "--tags", "Key=team,Value=blue")
			userARN = made.User.Arn
			var key struct{ AccessKey credentials }
			call(t, &key, "iam", "create-access-key", "--user-name", "dora")
			user = as(key.AccessKey.AccessKeyID, key.AccessKey.SecretAccessKey, "")
			contains(t, allowed(t, user, "sts", "get-caller-identity"), userARN)
			contains(t, b.run(t, "iam", "list-users", "--path-prefix", "/staff/"), `"dora"`)
			contains(t, b.run(t, "iam", "list-access-keys", "--user-name", "dora"), key.AccessKey.AccessKeyID)
			denied(t, user, get...)
			denied(t, user, "iam", "list-users")
		}},
		{"an inline policy", func(t *testing.T) {
			doc := b.file(t, "inline.json", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::`+bucket+`/open/*"}}`)
			call(t, nil, "iam", "put-user-policy", "--user-name", "dora", "--policy-name", "read", "--policy-document", "file://"+doc)
			contains(t, b.run(t, "iam", "get-user-policy", "--user-name", "dora", "--policy-name", "read"), "s3:GetObject")
			allowed(t, user, get...)
			same(t, object, b.path("down.bin"))
			denied(t, user, put...)
		}},
		{"a group with a managed policy", func(t *testing.T) {
			doc := b.file(t, "managed.json", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::`+bucket+`/*"}}`)
			var made struct{ Policy struct{ Arn string } }
			call(t, &made, "iam", "create-policy", "--policy-name", "putters", "--policy-document", "file://"+doc)
			policyARN = made.Policy.Arn
			call(t, nil, "iam", "create-group", "--group-name", "Writers")
			call(t, nil, "iam", "attach-group-policy", "--group-name", "Writers", "--policy-arn", policyARN)
			call(t, nil, "iam", "add-user-to-group", "--group-name", "Writers", "--user-name", "dora")
			contains(t, b.run(t, "iam", "list-attached-group-policies", "--group-name", "Writers"), "putters")
			contains(t, b.run(t, "iam", "list-groups-for-user", "--user-name", "dora"), "Writers")
			allowed(t, user, put...)
		}},
		{"a role", func(t *testing.T) {
			trust := b.file(t, "trust.json", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"`+userARN+`"},"Action":"sts:AssumeRole"}}`)
			var made struct{ Role struct{ Arn string } }
			call(t, &made, "iam", "create-role", "--role-name", "cleaner", "--assume-role-policy-document", "file://"+trust)
			roleARN = made.Role.Arn
			call(t, nil, "iam", "attach-role-policy", "--role-name", "cleaner", "--policy-arn", "arn:aws:iam::aws:policy/AmazonS3FullAccess")
			denied(t, user, "s3api", "delete-object", "--bucket", bucket, "--key", "open/y")
			var session struct{ Credentials credentials }
			out := allowed(t, user, "sts", "assume-role", "--role-arn", roleARN, "--role-session-name", "night",
				"--policy", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:DeleteObject","Resource":"*"}}`)
			if err := json.Unmarshal([]byte(out), &session); err != nil {
				t.Fatal(err)
			}
			role = as(session.Credentials.AccessKeyID, session.Credentials.SecretAccessKey, session.Credentials.SessionToken)
			contains(t, allowed(t, role, "sts", "get-caller-identity"), ":assumed-role/cleaner/night")
			allowed(t, role, "s3api", "delete-object", "--bucket", bucket, "--key", "open/y")
			denied(t, role, get...)
		}},
		{"a session token", func(t *testing.T) {
			var session struct{ Credentials credentials }
			call(t, &session, "sts", "get-session-token", "--duration-seconds", "900")
			env := as(session.Credentials.AccessKeyID, session.Credentials.SecretAccessKey, session.Credentials.SessionToken)
			contains(t, allowed(t, env, "s3", "ls"), bucket)
			denied(t, env, "iam", "list-users")
		}},
		{"a presigned URL of a session", func(t *testing.T) {
			var session struct{ Credentials credentials }
			call(t, &session, "sts", "get-session-token")
			env := as(session.Credentials.AccessKeyID, session.Credentials.SecretAccessKey, session.Credentials.SessionToken)
			url := strings.TrimSpace(allowed(t, env, "s3", "presign", "s3://"+bucket+"/open/x"))
			out, err := exec.CommandContext(t.Context(), "curl", "-sSf", "-o", b.path("signed.bin"), url).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			same(t, object, b.path("signed.bin"))
		}},
		{"an end to it", func(t *testing.T) {
			call(t, nil, "iam", "detach-role-policy", "--role-name", "cleaner", "--policy-arn", "arn:aws:iam::aws:policy/AmazonS3FullAccess")
			denied(t, role, "s3api", "delete-object", "--bucket", bucket, "--key", "open/x")
			call(t, nil, "iam", "delete-role", "--role-name", "cleaner")
			call(t, nil, "iam", "detach-group-policy", "--group-name", "Writers", "--policy-arn", policyARN)
			call(t, nil, "iam", "remove-user-from-group", "--group-name", "Writers", "--user-name", "dora")
			call(t, nil, "iam", "delete-group", "--group-name", "Writers")
			call(t, nil, "iam", "delete-policy", "--policy-arn", policyARN)
			call(t, nil, "iam", "delete-user-policy", "--user-name", "dora", "--policy-name", "read")
			denied(t, user, get...)
			key := strings.TrimPrefix(user[0], "AWS_ACCESS_KEY_ID=")
			call(t, nil, "iam", "update-access-key", "--user-name", "dora", "--access-key-id", key, "--status", "Inactive")
			if out, err := other(t, user, "sts", "get-caller-identity"); err == nil || !strings.Contains(out, "InvalidClientTokenId") {
				t.Errorf("an inactive key: %v\n%s", err, out)
			}
			call(t, nil, "iam", "delete-access-key", "--user-name", "dora", "--access-key-id", key)
			call(t, nil, "iam", "delete-user", "--user-name", "dora")
		}},
	}
}
