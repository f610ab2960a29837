package policy

import "testing"

func TestSmoke(t *testing.T) {
	p, err := ParseBucket([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}]}`), "b")
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Evaluate(&Request{Action: "s3:GetObject", Bucket: "b", Key: "k"}); r.Effect != Allow || !p.IsPublic() {
		t.Error(r)
	}
	if r := p.Evaluate(&Request{Action: "s3:PutObject", Bucket: "b", Key: "k"}); r.Effect != None {
		t.Error(r)
	}
}
