"""The whole job of boto3 against one S3 endpoint, step by step.

Usage: boto3_job.py ENDPOINT NAME TREE. Prints one JSON line a step: {"step": ..., "error": ""}.
"""
import concurrent.futures
import datetime
import io
import json
import os
import random
import sys
import traceback
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT, NAME, TREE = sys.argv[1:4]
NEW = tuple(int(x) for x in boto3.__version__.split(".")[:2]) >= (1, 36)
print(json.dumps({"version": boto3.__version__}))

s3 = boto3.client("s3", endpoint_url=ENDPOINT, config=Config(
    signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1},
    max_pool_connections=16))
anonymous = boto3.client("s3", endpoint_url=ENDPOINT, config=Config(
    signature_version=UNSIGNED, s3={"addressing_style": "path"}))
PARTS = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20, max_concurrency=4)

rng = random.Random(7)
SMALL, LARGE = rng.randbytes(12_345), rng.randbytes((17 << 20) + 4_321)
BUCKET, VERSIONS, LOCK = NAME + "-main", NAME + "-versions", NAME + "-lock"


def refused(code, call, **args):
    """Fails unless the call is refused with the error code."""
    try:
        call(**args)
    except ClientError as e:
        got = e.response["Error"]["Code"]
        assert got == code, f"refused with {got}, want {code}"
        return e.response
    raise AssertionError(f"went through, want {code}")


def get(key, bucket=BUCKET, **args):
    return s3.get_object(Bucket=bucket, Key=key, **args)["Body"].read()


def fetch(url, method="GET", data=None, headers=None):
    """Sends a plain request and returns its status and body."""
    req = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(req) as resp:
            return resp.status, resp.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def make_bucket():
    s3.create_bucket(Bucket=BUCKET)
    s3.head_bucket(Bucket=BUCKET)
    assert BUCKET in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] in (None, "us-east-1")


def small():
    r = s3.put_object(Bucket=BUCKET, Key="dir/small.bin", Body=SMALL, ContentType="application/x-ice",
                      CacheControl="no-cache", Metadata={"colour": "ice blue", "depth": "12"})
    head = s3.head_object(Bucket=BUCKET, Key="dir/small.bin")
    assert head["ETag"] == r["ETag"] and head["ContentLength"] == len(SMALL)
    assert head["ContentType"] == "application/x-ice" and head["CacheControl"] == "no-cache"
    assert head["Metadata"] == {"colour": "ice blue", "depth": "12"}, head["Metadata"]
    assert get("dir/small.bin") == SMALL
    s3.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert get("empty") == b""


def multipart():
    s3.upload_fileobj(io.BytesIO(LARGE), BUCKET, "large.bin", Config=PARTS)
    out = io.BytesIO()
    s3.download_fileobj(BUCKET, "large.bin", out, Config=PARTS)
    assert out.getvalue() == LARGE
    assert s3.head_object(Bucket=BUCKET, Key="large.bin")["ETag"].endswith('-4"')
    part = s3.get_object(Bucket=BUCKET, Key="large.bin", PartNumber=2)
    assert part["Body"].read() == LARGE[5 << 20:10 << 20] and part["PartsCount"] == 4


def multipart_by_hand():
    up = s3.create_multipart_upload(Bucket=BUCKET, Key="hand.bin")["UploadId"]
    args = {"Bucket": BUCKET, "Key": "hand.bin", "UploadId": up}
    parts = []
    for n, body in [(1, LARGE[:5 << 20]), (7, LARGE[:6 << 20]), (9, SMALL)]:
        parts.append({"PartNumber": n, "ETag": s3.upload_part(PartNumber=n, Body=body, **args)["ETag"]})
    copied = s3.upload_part_copy(PartNumber=10, CopySource={"Bucket": BUCKET, "Key": "large.bin"},
                                 CopySourceRange="bytes=100-70000", **args)
    parts.append({"PartNumber": 10, "ETag": copied["CopyPartResult"]["ETag"]})
    assert [p["PartNumber"] for p in s3.list_parts(**args)["Parts"]] == [1, 7, 9, 10]
    assert up in [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]]
    refused("EntityTooSmall", s3.complete_multipart_upload, MultipartUpload={"Parts": parts}, **args)
    parts = parts[:2] + parts[3:]
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **args)
    assert get("hand.bin") == LARGE[:5 << 20] + LARGE[:6 << 20] + LARGE[100:70001]
    up = s3.create_multipart_upload(Bucket=BUCKET, Key="aborted")["UploadId"]
    s3.upload_part(Bucket=BUCKET, Key="aborted", UploadId=up, PartNumber=1, Body=SMALL)
    s3.abort_multipart_upload(Bucket=BUCKET, Key="aborted", UploadId=up)
    refused("NoSuchUpload", s3.list_parts, Bucket=BUCKET, Key="aborted", UploadId=up)


def tree():
    """Uploads a tree, lists it, and reads it back."""
    files = {}
    for root, _, names in os.walk(TREE):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as f:
                files["tree/" + os.path.relpath(path, TREE)] = f.read()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=BUCKET, Key=key, Body=files[key]), files))
        listed = {}
        for page in s3.get_paginator("list_objects_v2").paginate(
                Bucket=BUCKET, Prefix="tree/", PaginationConfig={"PageSize": 100}):
            for o in page["Contents"]:
                listed[o["Key"]] = o["Size"]
        assert listed == {k: len(v) for k, v in files.items()}, "the listing differs from the tree"
        assert list(listed) == sorted(files, key=lambda k: k.encode()), "the listing is not in order"
        wrong = [k for k, body in zip(files, pool.map(get, files)) if body != files[k]]
        assert not wrong, f"differ: {wrong[:5]}"
    seen, folders = 0, set()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="tree/", Delimiter="/"):
        seen += len(page.get("Contents", []))
        folders |= {p["Prefix"] for p in page.get("CommonPrefixes", [])}
    assert folders == {"tree/" + k.split("/")[1] + "/" for k in files if k.count("/") > 1}
    assert seen == sum(k.count("/") == 1 for k in files)


def ranges():
    for spec, want in [("bytes=0-0", LARGE[:1]), ("bytes=6000001-6012345", LARGE[6000001:6012346]),
                       ("bytes=-777", LARGE[-777:]), (f"bytes={len(LARGE) - 5}-", LARGE[-5:])]:
        r = s3.get_object(Bucket=BUCKET, Key="large.bin", Range=spec)
        assert r["Body"].read() == want and r["ResponseMetadata"]["HTTPStatusCode"] == 206, spec
    refused("InvalidRange", s3.get_object, Bucket=BUCKET, Key="large.bin", Range=f"bytes={len(LARGE)}-")


def conditions():
    head = s3.head_object(Bucket=BUCKET, Key="dir/small.bin")
    refused("304", s3.head_object, Bucket=BUCKET, Key="dir/small.bin", IfNoneMatch=head["ETag"])
    refused("PreconditionFailed", s3.get_object, Bucket=BUCKET, Key="dir/small.bin", IfMatch='"other"')
    later = head["LastModified"] + datetime.timedelta(hours=1)
    refused("304", s3.get_object, Bucket=BUCKET, Key="dir/small.bin", IfModifiedSince=later)
    if NEW:
        refused("PreconditionFailed", s3.put_object, Bucket=BUCKET, Key="dir/small.bin", Body=b"x", IfNoneMatch="*")
        s3.put_object(Bucket=BUCKET, Key="once", Body=b"x", IfNoneMatch="*")
        etag = s3.head_object(Bucket=BUCKET, Key="once")["ETag"]
        refused("PreconditionFailed", s3.put_object, Bucket=BUCKET, Key="once", Body=b"y", IfMatch='"other"')
        s3.put_object(Bucket=BUCKET, Key="once", Body=b"y", IfMatch=etag)
        assert get("once") == b"y"


def checksums():
    for algorithm in ["CRC32", "SHA1", "SHA256"]:  # CRC32C and CRC64NVME need a module of their own
        key = "sum/" + algorithm
        r = s3.put_object(Bucket=BUCKET, Key=key, Body=SMALL, ChecksumAlgorithm=algorithm)
        field = "Checksum" + algorithm
        head = s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
        assert r[field] and head[field] == r[field], algorithm
        attributes = s3.get_object_attributes(Bucket=BUCKET, Key=key, ObjectAttributes=["Checksum", "ObjectSize"])
        assert attributes["Checksum"][field] == r[field] and attributes["ObjectSize"] == len(SMALL)
        assert s3.get_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")["Body"].read() == SMALL
    refused("BadDigest", s3.put_object, Bucket=BUCKET, Key="sum/bad", Body=SMALL,
            ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    refused("NoSuchKey", s3.get_object, Bucket=BUCKET, Key="sum/bad")


def copies():
    src = {"Bucket": BUCKET, "Key": "dir/small.bin"}
    s3.copy_object(Bucket=BUCKET, Key="copy/kept", CopySource=src)
    assert s3.head_object(Bucket=BUCKET, Key="copy/kept")["Metadata"] == {"colour": "ice blue", "depth": "12"}
    s3.copy_object(Bucket=BUCKET, Key="copy/replaced", CopySource=src, MetadataDirective="REPLACE",
                   Metadata={"new": "yes"}, ContentType="text/plain")
    head = s3.head_object(Bucket=BUCKET, Key="copy/replaced")
    assert head["Metadata"] == {"new": "yes"} and head["ContentType"] == "text/plain"
    assert get("copy/kept") == SMALL and get("copy/replaced") == SMALL
    s3.copy({"Bucket": BUCKET, "Key": "large.bin"}, BUCKET, "copy/large.bin", Config=PARTS)
    assert get("copy/large.bin") == LARGE
    refused("NoSuchKey", s3.copy_object, Bucket=BUCKET, Key="copy/none", CopySource={"Bucket": BUCKET, "Key": "none"})


def presigned():
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "dir/small.bin"}, ExpiresIn=60)
    assert fetch(url) == (200, SMALL)
    broken = url[:-1] + ("0" if url[-1] != "0" else "1")
    assert fetch(broken)[0] == 403
    url = s3.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "signed put é+%"}, ExpiresIn=60)
    status, body = fetch(url, "PUT", SMALL, {"Content-Type": ""})
    assert status == 200, body
    assert get("signed put é+%") == SMALL
    post = s3.generate_presigned_post(BUCKET, "form/${filename}", Fields={"x-amz-meta-from": "form"},
                                      Conditions=[{"x-amz-meta-from": "form"}, ["content-length-range", 1, 100000]])
    boundary = "firnboundary"
    form = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in post["fields"].items())
    form += (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
             "Content-Type: application/octet-stream\r\n\r\n").encode() + SMALL + f"\r\n--{boundary}--\r\n".encode()
    status, body = fetch(post["url"], "POST", form, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    assert status == 204, (status, body)
    assert get("form/a.bin") == SMALL


def tags():
    want = [{"Key": "colour", "Value": "ice blue"}, {"Key": "größe", "Value": "+/="}]
    s3.put_object_tagging(Bucket=BUCKET, Key="dir/small.bin", Tagging={"TagSet": want})
    got = s3.get_object_tagging(Bucket=BUCKET, Key="dir/small.bin")["TagSet"]
    assert sorted(got, key=str) == sorted(want, key=str), got
    assert s3.get_object(Bucket=BUCKET, Key="dir/small.bin")["TagCount"] == 2
    s3.delete_object_tagging(Bucket=BUCKET, Key="dir/small.bin")
    assert s3.get_object_tagging(Bucket=BUCKET, Key="dir/small.bin")["TagSet"] == []
    s3.put_object(Bucket=BUCKET, Key="tagged", Body=b"x", Tagging="a=b&c=d%20e")
    assert len(s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"]) == 2
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": want[:1]})
    assert s3.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == want[:1]
    s3.delete_bucket_tagging(Bucket=BUCKET)
    refused("NoSuchTagSet", s3.get_bucket_tagging, Bucket=BUCKET)


def versioning():
    s3.create_bucket(Bucket=VERSIONS)
    s3.put_object(Bucket=VERSIONS, Key="doc", Body=b"before")
    s3.put_bucket_versioning(Bucket=VERSIONS, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=VERSIONS)["Status"] == "Enabled"
    one = s3.put_object(Bucket=VERSIONS, Key="doc", Body=b"one")["VersionId"]
    two = s3.put_object(Bucket=VERSIONS, Key="doc", Body=b"two")["VersionId"]
    listed = s3.list_object_versions(Bucket=VERSIONS)["Versions"]
    assert [v["VersionId"] for v in listed] == [two, one, "null"] and listed[0]["IsLatest"]
    assert get("doc", VERSIONS) == b"two" and get("doc", VERSIONS, VersionId=one) == b"one"
    assert get("doc", VERSIONS, VersionId="null") == b"before"
    s3.copy_object(Bucket=VERSIONS, Key="doc", CopySource={"Bucket": VERSIONS, "Key": "doc", "VersionId": one})
    assert get("doc", VERSIONS) == b"one"
    gone = s3.delete_object(Bucket=VERSIONS, Key="doc")
    assert gone["DeleteMarker"] is True
    refused("NoSuchKey", s3.get_object, Bucket=VERSIONS, Key="doc")
    refused("MethodNotAllowed", s3.get_object, Bucket=VERSIONS, Key="doc", VersionId=gone["VersionId"])
    assert s3.list_object_versions(Bucket=VERSIONS)["DeleteMarkers"][0]["VersionId"] == gone["VersionId"]
    assert "Contents" not in s3.list_objects_v2(Bucket=VERSIONS)
    s3.delete_object(Bucket=VERSIONS, Key="doc", VersionId=gone["VersionId"])
    assert get("doc", VERSIONS) == b"one"
    s3.put_bucket_versioning(Bucket=VERSIONS, VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(Bucket=VERSIONS, Key="doc", Body=b"null again")
    assert get("doc", VERSIONS, VersionId="null") == b"null again" and get("doc", VERSIONS, VersionId=two) == b"two"


def object_lock():
    s3.create_bucket(Bucket=LOCK, ObjectLockEnabledForBucket=True)
    s3.put_object_lock_configuration(Bucket=LOCK, ObjectLockConfiguration={
        "ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}})
    assert s3.get_object_lock_configuration(Bucket=LOCK)["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]["Days"] == 1
    sha = {"ChecksumAlgorithm": "SHA256"}
    v = s3.put_object(Bucket=LOCK, Key="kept", Body=SMALL, **sha)["VersionId"]
    at = {"Bucket": LOCK, "Key": "kept", "VersionId": v}
    assert s3.get_object_retention(**at)["Retention"]["Mode"] == "GOVERNANCE"
    refused("AccessDenied", s3.delete_object, **at)
    s3.delete_object(BypassGovernanceRetention=True, **at)
    v = s3.put_object(Bucket=LOCK, Key="held", Body=SMALL, ObjectLockLegalHoldStatus="ON", **sha)["VersionId"]
    at = {"Bucket": LOCK, "Key": "held", "VersionId": v}
    assert s3.get_object_legal_hold(**at)["LegalHold"]["Status"] == "ON"
    refused("AccessDenied", s3.delete_object, BypassGovernanceRetention=True, **at)
    s3.put_object_legal_hold(LegalHold={"Status": "OFF"}, **at)
    s3.delete_object(BypassGovernanceRetention=True, **at)
    until = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(days=2)
    v = s3.put_object(Bucket=LOCK, Key="strict", Body=SMALL, ObjectLockMode="COMPLIANCE",
                      ObjectLockRetainUntilDate=until, **sha)["VersionId"]
    at = {"Bucket": LOCK, "Key": "strict", "VersionId": v}
    assert s3.head_object(**at)["ObjectLockRetainUntilDate"] == until
    refused("AccessDenied", s3.delete_object, BypassGovernanceRetention=True, **at)
    refused("AccessDenied", s3.put_object_retention, BypassGovernanceRetention=True, Retention={
        "Mode": "COMPLIANCE", "RetainUntilDate": until - datetime.timedelta(days=1)}, **at)


def lifecycle():
    rules = [{"ID": "logs", "Filter": {"Prefix": "logs/"}, "Status": "Enabled", "Expiration": {"Days": 30},
              "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
              "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3}},
             {"ID": "tagged", "Filter": {"And": {"Prefix": "t/", "Tags": [{"Key": "a", "Value": "b"}]}},
              "Status": "Disabled", "Expiration": {"Days": 1}}]
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": rules})
    assert s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"] == rules
    s3.delete_bucket_lifecycle(Bucket=BUCKET)
    refused("NoSuchLifecycleConfiguration", s3.get_bucket_lifecycle_configuration, Bucket=BUCKET)


def policy():
    at = {"Bucket": BUCKET, "Key": "dir/small.bin"}
    refused("AccessDenied", anonymous.get_object, **at)
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/dir/*"},
        {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/dir/no*"}]}))
    s3.put_object(Bucket=BUCKET, Key="dir/no", Body=b"x")
    assert anonymous.get_object(**at)["Body"].read() == SMALL
    refused("AccessDenied", anonymous.get_object, Bucket=BUCKET, Key="dir/no")
    refused("AccessDenied", anonymous.get_object, Bucket=BUCKET, Key="large.bin")
    refused("AccessDenied", anonymous.put_object, Body=b"x", **at)
    refused("AccessDenied", anonymous.list_objects_v2, Bucket=BUCKET)
    assert json.loads(s3.get_bucket_policy(Bucket=BUCKET)["Policy"])["Version"] == "2012-10-17"
    s3.delete_bucket_policy(Bucket=BUCKET)
    refused("NoSuchBucketPolicy", s3.get_bucket_policy, Bucket=BUCKET)
    refused("AccessDenied", anonymous.get_object, **at)


def cors():
    rules = [{"AllowedOrigins": ["https://firn.example"], "AllowedMethods": ["GET", "PUT"], "AllowedHeaders": ["*"],
              "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 600}]
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": rules})
    assert s3.get_bucket_cors(Bucket=BUCKET)["CORSRules"] == rules
    url = f"{ENDPOINT}/{BUCKET}/dir/small.bin"

    def preflight(origin):
        return fetch(url, "OPTIONS", headers={"Origin": origin, "Access-Control-Request-Method": "PUT"})[0]

    assert preflight("https://firn.example") in (200, 204) and preflight("https://evil.example") == 403
    s3.delete_bucket_cors(Bucket=BUCKET)
    refused("NoSuchCORSConfiguration", s3.get_bucket_cors, Bucket=BUCKET)


def errors():
    refused("NoSuchBucket", s3.get_object, Bucket=NAME + "-none", Key="x")
    refused("NoSuchKey", s3.get_object, Bucket=BUCKET, Key="none")
    refused("404", s3.head_object, Bucket=BUCKET, Key="none")
    refused("BucketNotEmpty", s3.delete_bucket, Bucket=BUCKET)
    refused("InvalidBucketName", s3.create_bucket, Bucket="No_Capitals")
    wrong = boto3.client("s3", endpoint_url=ENDPOINT, aws_secret_access_key="wrong",
                         aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
                         config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    refused("SignatureDoesNotMatch", wrong.list_buckets)
    nobody = boto3.client("s3", endpoint_url=ENDPOINT, aws_access_key_id="NOBODY", aws_secret_access_key="wrong",
                          config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    refused("InvalidAccessKeyId", nobody.list_buckets)


def delete_all():
    for bucket in (BUCKET, VERSIONS):
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            objects = [{"Key": v["Key"], "VersionId": v["VersionId"]}
                       for v in page.get("Versions", []) + page.get("DeleteMarkers", [])]
            if objects:
                r = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
                assert not r.get("Errors"), r["Errors"][:3]
        s3.delete_bucket(Bucket=bucket)
        refused("404", s3.head_bucket, Bucket=bucket)


for name, do in [
        ("make bucket", make_bucket), ("small up and down", small), ("multipart up and down", multipart),
        ("multipart by hand", multipart_by_hand), ("tree up and down", tree), ("ranges", ranges),
        ("conditions", conditions), ("checksums", checksums), ("copy", copies), ("presigned", presigned), ("tags", tags),
        ("versioning", versioning), ("object lock", object_lock), ("lifecycle", lifecycle), ("policy", policy),
        ("CORS", cors), ("errors", errors), ("delete all", delete_all)]:
    error = ""
    try:
        do()
    except Exception:  # a failing step must not hide the ones after it
        error = traceback.format_exc(limit=-4)
    print(json.dumps({"step": name, "error": error}), flush=True)
