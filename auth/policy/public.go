package policy

// isPublic reports whether the statement allows anybody, after "The meaning of public" in the user guide's
// chapter on blocking public access.
func (s *statement) isPublic() bool {
	if s.effect != Allow || !s.principals.any && !s.notPrincipal {
		return false
	}
	for i := range s.conditions {
		if s.conditions[i].narrows() {
			return false
		}
	}
	return true
}

// narrows reports whether the condition holds callers to fixed values of a key that tells them apart.
func (c *condition) narrows() bool {
	if c.negate || c.ifExists || c.quant == forAll {
		return false
	}
	switch c.key {
	case "aws:sourceip":
		if c.op != opIP {
			return false
		}
		for i := range c.values {
			if p := c.values[i].prefix; wide(p.Bits(), p.Addr().Is4()) && !p.Addr().IsPrivate() {
				return false
			}
		}
		return true
	case "aws:sourcearn", "aws:principalarn", "s3:dataaccesspointarn", "aws:sourcevpc", "aws:sourcevpce",
		"aws:sourceowner", "aws:sourceaccount", "aws:principalorgid", "aws:principalaccount", "aws:userid",
		"aws:username", "s3:dataaccesspointaccount", "s3:x-amz-server-side-encryption-aws-kms-key-id":
	default:
		return false
	}
	for i := range c.values {
		o := &c.values[i]
		switch c.op {
		case opString, opStringFold, opStringLike:
			if !o.text.fixed() {
				return false
			}
		case opArn:
			if !o.fixedArn() {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// fixedArn reports whether the ARN names one thing, or things of one account.
func (o *operand) fixedArn() bool {
	if o.arn[4].text != "" && o.arn[4].fixed() {
		return true
	}
	for i := range o.arn {
		if !o.arn[i].fixed() {
			return false
		}
	}
	return true
}

// wide reports whether a range is too wide to name anybody: wider than /8 for IPv4, /32 for IPv6.
func wide(bits int, v4 bool) bool {
	if v4 {
		return bits < 8
	}
	return bits < 32
}
