#!/usr/bin/env bash
# Installs what the tests below test/ need beside Go: the stock S3 clients,
# and the servers behind the blob drivers. It does nothing where all is there.
# Run as root on Debian or Ubuntu; `make test` calls it. FIRN_TEST_TOOLS is where programs that no package has go.
set -euo pipefail

MC=github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9
MINIO=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
VERSITYGW=github.com/versity/versitygw/cmd/versitygw@v1.8.0
KES=github.com/minio/kes/cmd/kes@v0.24.0
AGE=filippo.io/age/cmd/age@v1.2.1
AGE_KEYGEN=filippo.io/age/cmd/age-keygen@v1.2.1
PEBBLE=github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1
TOOLS=${FIRN_TEST_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/firn-test/tools}

# Package and the file that shows it is there.
missing=()
while read -r package file; do
  [ -e "$file" ] || missing+=("$package")
done <<'LIST'
awscli /usr/bin/aws
python3-boto3 /usr/lib/python3/dist-packages/boto3/__init__.py
rclone /usr/bin/rclone
s3cmd /usr/bin/s3cmd
ceph-mon /usr/bin/ceph-mon
ceph-osd /usr/bin/ceph-osd
ceph-common /usr/bin/ceph
radosgw /usr/bin/radosgw
librados-dev /usr/include/rados/librados.h
gcc /usr/bin/gcc
libc6-dev /usr/include/stdlib.h
git /usr/bin/git
fcgiwrap /usr/sbin/fcgiwrap
openssh-client /usr/bin/ssh-keygen
openssh-server /usr/sbin/sshd
nginx-light /usr/sbin/nginx
libnginx-mod-http-dav-ext /usr/lib/nginx/modules/ngx_http_dav_ext_module.so
chromium /usr/bin/chromium
ffmpeg /usr/bin/ffmpeg
redis-server /usr/bin/redis-server
redis-tools /usr/bin/redis-cli
postgresql /usr/bin/pg_ctlcluster
LIST
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing ${missing[*]}"
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"
fi

mkdir -p "$TOOLS"
for module in "$MC" "$MINIO" "$VERSITYGW" "$PEBBLE" "$AGE" "$AGE_KEYGEN"; do
  name=${module%@*}
  if [ ! -x "$TOOLS/${name##*/}" ]; then
    echo "installing $module"
    GOBIN=$TOOLS GOFLAGS= go install "$module"
  fi
done

# KES has dependencies that no longer build with "go install", and a module of its own to pin them.
if [ ! -x "$TOOLS/kes" ]; then
  echo "installing $KES"
  module=$(mktemp -d)
  (cd "$module" && go mod init kestool 2>/dev/null && GOFLAGS= go get "$KES" &&
    CGO_ENABLED=0 GOFLAGS= go build -o "$TOOLS/kes" "${KES%@*}")
  rm -rf "$module"
fi

# A boto3 that sends checksums unasked, which Debian 12's does not yet: pure Python, from the next release, beside the
# system's own.
if [ ! -d "$TOOLS/boto3/usr" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    head -n 1 | tr -d ' ' || true)
  [ -n "$mirror" ] || { echo "no Debian archive among the machine's apt sources" >&2; exit 1; }
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/boto3"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" \
    >"$work/sources.list"
  options=(-q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
    -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  echo "installing boto3 of trixie"
  apt-get "${options[@]}" update
  (cd "$work/debs" && apt-get "${options[@]}" download python3-boto3 python3-botocore python3-s3transfer)
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/boto3"; done
  rm -rf "$TOOLS/boto3"
  mv "$work/boto3" "$TOOLS/boto3"
fi
echo "test clients are ready"
