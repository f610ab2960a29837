"""Writes requests signed by botocore, as they go over the wire.

Run by hand with botocore and awscrt at hand, for botocore's own signer and for the one in C that it prefers:
  BOTO_DISABLE_CRT=true python3 sign.py > botocore.json; python3 sign.py > botocore-crt.json
Each entry has the method, the request target, the headers and the body (base64).
"""
import base64, datetime, io, json
import botocore, botocore.auth, botocore.awsrequest, botocore.session
from botocore.config import Config
from unittest import mock

NOW = datetime.datetime(2025, 6, 7, 8, 9, 10, tzinfo=datetime.timezone.utc)
HOST = "http://storage.test:9000"
out = []


class Stop(Exception):
    pass


def client(style="path", **s3):
    s = botocore.session.Session()
    s.set_credentials("AKIDEXAMPLE/WITH/SLASH" if s3.pop("slash", False) else "AKIDEXAMPLE", "secret-of+the/example")
    c = s.create_client("s3", region_name="us-east-1", endpoint_url=s3.pop("endpoint", HOST), config=Config(
        signature_version="s3v4", s3=dict(addressing_style=style, **s3)))

    def send(request, **kw):
        body = request.body
        if hasattr(body, "read"):
            body = body.read()
        if isinstance(body, str):
            body = body.encode()
        target = "/" + request.url.split("/", 3)[3] if request.url.count("/") > 2 else "/"
        head = {k: v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}
        for k in ("User-Agent", "amz-sdk-invocation-id", "amz-sdk-request"):
            head.pop(k, None)
        head = {("Host" if k.lower() == "host" else k): v for k, v in head.items()}
        head.setdefault("Host", request.url.split("/")[2])
        out.append(dict(name=name, method=request.method, target=target, header=head,
                        body=base64.b64encode(body or b"").decode()))
        raise Stop

    c.meta.events.register("before-send.s3", send)
    return c


def call(n, fn, **kw):
    global name
    name = n
    try:
        fn(**kw)
    except Stop:
        return
    raise SystemExit("not sent: " + n)


def presign(n, c, op, params, **kw):
    url = c.generate_presigned_url(op, Params=params, **kw)
    method = {"get_object": "GET", "put_object": "PUT", "list_objects_v2": "GET"}[op]
    out.append(dict(name=n, method=method, target="/" + url.split("/", 3)[3], header={"Host": url.split("/")[2]}, body=""))


real = datetime.datetime


class Clock(real):
    @classmethod
    def utcnow(cls):
        return NOW.replace(tzinfo=None)

    @classmethod
    def now(cls, tz=None):
        return NOW if tz else NOW.replace(tzinfo=None)


patches = [mock.patch("datetime.datetime", Clock)]
if hasattr(botocore.auth, "get_current_datetime"):
    patches.append(mock.patch("botocore.auth.get_current_datetime",
                              lambda remove_tzinfo=True: NOW.replace(tzinfo=None) if remove_tzinfo else NOW))
for p in patches:
    p.start()

c, v = client(), client("virtual")
call("list buckets", c.list_buckets)
call("get", c.get_object, Bucket="bucket", Key="key", Range="bytes=0-9")
d = client()
d.meta.events.register("before-call.s3.GetObject", lambda params, **kw: params["headers"].update({"Date": "now"}))
call("date header", d.get_object, Bucket="bucket", Key="key")
call("get virtual host", v.get_object, Bucket="bucket", Key="key/with/slashes")
call("get odd key", c.get_object, Bucket="bucket", Key="a b/ü+=&?#%25~!'()*,;:@$[]{}^`|\\\"<>/\u6587//x/../y/./")
call("put", c.put_object, Bucket="bucket", Key="k", Body=b"hello")
call("put empty", c.put_object, Bucket="bucket", Key="k", Body=b"")
call("put stream", client(endpoint="https://storage.test").put_object, Bucket="bucket", Key="k", Body=io.BytesIO(b"x" * 300), ChecksumAlgorithm="SHA256")
call("put metadata", c.put_object, Bucket="bucket", Key="k", Body=b"1", Metadata={"colour": "blue   green", "b": " padded "},
     ContentType="text/plain; charset=utf-8", Tagging="a=b&c=d%20e", ACL="public-read")
call("put no checksum", client(payload_signing_enabled=False).put_object, Bucket="bucket", Key="k", Body=b"data")
call("list", c.list_objects_v2, Bucket="bucket", Prefix="a b/ü&=", Delimiter="/", MaxKeys=7, EncodingType="url", StartAfter="z+y~")
call("list versions", c.list_object_versions, Bucket="bucket", KeyMarker="*'()!", VersionIdMarker="a/b")
call("acl", c.get_bucket_acl, Bucket="bucket")
call("delete many", c.delete_objects, Bucket="bucket", Delete={"Objects": [{"Key": "a"}, {"Key": "b<>"}]})
call("copy", c.copy_object, Bucket="bucket", Key="to", CopySource={"Bucket": "bucket", "Key": "from ü"})
call("upload part", c.upload_part, Bucket="bucket", Key="k", PartNumber=3, UploadId="a+b/c=", Body=b"part")
call("key with slashes", client(slash=True).get_object, Bucket="bucket", Key="k")
presign("presigned get", c, "get_object", dict(Bucket="bucket", Key="a b/ü+", ResponseContentType="text/plain; a=b"), ExpiresIn=600)
presign("presigned list", c, "list_objects_v2", dict(Bucket="bucket", Prefix="x y", Delimiter="/"), ExpiresIn=604800)
presign("presigned virtual", v, "get_object", dict(Bucket="bucket", Key="k", VersionId="1.2"), ExpiresIn=1)
for p in patches:
    p.stop()
print(json.dumps(dict(botocore=botocore.__version__, time="2025-06-07T08:09:10Z", access_key="AKIDEXAMPLE",
                      secret_key="secret-of+the/example", requests=out), indent=1, ensure_ascii=True))
