package encrypt

import "encoding/hex"

// goldenHeader and goldenBlob were written by version 1 with the password "golden".
const goldenHeader = `{"firn-encrypt":1,"kdf":"argon2id","time":1,"memory-kib":8,"threads":1,"salt":"kXooZY8fnMnALcIG+ZCxKNuZ46pN+tXPo1KPx2ICRkA=","key":"YU0RKHWHuBAZKlpBVXL4eA5dPm66rVFmp88RPdy32N3HXmEuqksGpAKtLOqx+CUs8nwBEVBHwpdKtruU"}
745b8cf3aee7e618f2bed825b8efab76a8f389e8791127dfaed0fa447b8e2a02
`

func goldenBlob() []byte {
	p, _ := hex.DecodeString("20000e008a26204e8ffb28fdb64e0bb71d2efa7f35de32dbde991e0b179f3aff6d08f42179f16f9cb106bfe4232e0b")
	return p
}
