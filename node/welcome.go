package node

import (
	"fmt"
	"io"
	"net"
	"path/filepath"

	"firn/tlsconf"
)

// welcome tells once how to reach a new site. It goes to the terminal, never to the log: it holds the secret.
func (n *Node) welcome(w io.Writer) error {
	url := scheme(n.tls != nil) + "://" + reachable(n.s3.Addr())
	c := n.root
	_, err := fmt.Fprintf(w, `Firn is ready. This is shown once; the keys are kept in %[5]s.

  endpoint    %[1]s
  region      %[4]s
  access key  %[2]s
  secret key  %[3]s

  aws     AWS_ACCESS_KEY_ID=%[2]s AWS_SECRET_ACCESS_KEY=%[3]s AWS_DEFAULT_REGION=%[4]s aws --endpoint-url %[1]s s3 mb s3://first
  mc      mc alias set firn %[1]s %[2]s %[3]s && mc mb firn/first
  rclone  rclone mkdir ":s3,provider=Other,endpoint='%[1]s',region=%[4]s,access_key_id=%[2]s,secret_access_key=%[3]s:first"

`, url, c.AccessKey, c.SecretKey, n.cfg.Region, n.dir.file(credentialsName))
	if n.tls == nil || err != nil {
		return err
	}
	if _, fingerprint := n.tls.Authority(); fingerprint != "" {
		_, err = fmt.Fprintf(w, `Clients must trust this site's own authority, which firn tls ca prints:
  %s
  SHA-256 %s

`, filepath.Join(TLSDir(n.dir.Path), tlsconf.CAName), fingerprint)
	}
	return err
}

// reachable turns the address of a listener into one a client on this machine can use.
func reachable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
