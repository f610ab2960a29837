package sigv4

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"

	"firn/auth"
)

// VerifyForm checks the signature of a POST form. field returns the value of a form field by its name in
// lower case, "" where it is missing. A form without a policy and without credentials is anonymous. The
// policy's conditions and expiration are not looked at: they are the door's.
//
// Forms signed with version 2 (AWSAccessKeyId, signature) are accepted, because such forms are still in use
// and the signed policy bounds what they allow and until when.
func (v *Verifier) VerifyForm(ctx context.Context, field func(name string) string) (*Result, error) {
	policy := field("policy")
	switch {
	case field("x-amz-algorithm") != "" || field("x-amz-signature") != "" || field("x-amz-credential") != "":
		return v.verifyForm4(ctx, policy, field)
	case field("awsaccesskeyid") != "" || field("signature") != "":
		return v.verifyForm2(ctx, policy, field)
	case policy != "":
		return nil, errFormField("AWSAccessKeyId")
	}
	return &Result{Identity: &auth.Identity{}}, nil
}

func errFormField(name string) *Error {
	return &Error{
		Code: "InvalidArgument", Status: 400,
		Message: "Bucket POST must contain a field named '" + name + "'.  If it is specified, please check the order of the fields.",
		Fields:  []Field{{"ArgumentName", name}, {"ArgumentValue", ""}},
	}
}

func (v *Verifier) verifyForm4(ctx context.Context, policy string, field func(string) string) (*Result, error) {
	need := [...]struct{ name, value string }{
		{"X-Amz-Algorithm", field("x-amz-algorithm")},
		{"X-Amz-Credential", field("x-amz-credential")},
		{"X-Amz-Date", field("x-amz-date")},
		{"X-Amz-Signature", field("x-amz-signature")},
		{"policy", policy},
	}
	for _, f := range need {
		if f.value == "" {
			return nil, errFormField(f.name)
		}
	}
	if need[0].value != algorithm {
		return nil, invalidArgument(`X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"`, "X-Amz-Algorithm", need[0].value)
	}
	cred, err := v.parseCredential(need[1].value, "", formErrors)
	if err != nil {
		return nil, err
	}
	date, provided := need[2].value, need[3].value
	signed, err := parseISO(date)
	if err != nil || date[:8] != cred.date {
		return nil, invalidArgument(`X-Amz-Date must be in the ISO8601 Long Format "yyyyMMdd'T'HHmmss'Z'"`, "X-Amz-Date", date)
	}
	cred.token = field("x-amz-security-token")
	res := &Result{
		Type: Form, Version: algorithm, AccessKey: cred.accessKey, Signed: signed,
		Region: cred.region, date: date, scope: cred.scope,
	}
	key, err := v.signingKey(ctx, res, &cred)
	if err != nil {
		return nil, err
	}
	var want [32]byte
	var buf []byte
	got := key.sum(&buf, []byte(policy))
	if !decodeHex(want[:], provided) || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return nil, errSignature(cred.accessKey, provided, policy, "")
	}
	res.Identity.Used(v.now())
	return res, nil
}

func (v *Verifier) verifyForm2(ctx context.Context, policy string, field func(string) string) (*Result, error) {
	accessKey, provided := field("awsaccesskeyid"), field("signature")
	for _, f := range [...]struct{ name, value string }{
		{"AWSAccessKeyId", accessKey}, {"signature", provided}, {"policy", policy},
	} {
		if f.value == "" {
			return nil, errFormField(f.name)
		}
	}
	secret, id, err := v.lookup(ctx, accessKey, field("x-amz-security-token"))
	if err != nil {
		return nil, err
	}
	m := hmac.New(sha1.New, []byte(secret))
	m.Write([]byte(policy))
	want, err := base64.StdEncoding.DecodeString(provided)
	if err != nil || subtle.ConstantTimeCompare(m.Sum(nil), want) != 1 {
		return nil, errSignature(accessKey, provided, policy, "")
	}
	id.Used(v.now())
	return &Result{Type: Form, Version: "AWS", AccessKey: accessKey, Identity: id}, nil
}
