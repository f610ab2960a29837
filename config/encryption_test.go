package config

import (
	"strings"
	"testing"
)

func TestEncryption(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"command":      {"encryption: {secret_command: tpm2_unseal -c 1}", ""},
		"file":         {"encryption: {secret_file: /etc/x}", ""},
		"passphrase":   {"encryption: {passphrase: long enough}", ""},
		"short":        {"encryption: {passphrase: short}", "8 characters"},
		"two":          {"encryption: {passphrase: long enough, secret_file: /etc/x}", "set one of"},
		"service":      {"encryption: {service: aws}", "want keyring or vault or kes"},
		"vault, no":    {"encryption: {service: vault}", "needs encryption.vault"},
		"vault, plain": {"encryption: {vault: 'http://vault.example', vault_token_file: t}", "https://"},
		"vault, local": {"encryption: {vault: 'http://127.0.0.1:8200', vault_token_file: t}", ""},
		"vault, none":  {"encryption: {vault: 'https://v'}", "vault_token_file"},
		"vault, both":  {"encryption: {vault: 'https://v', vault_token_file: t, vault_role_id: r, vault_secret_id_file: s}", "vault_token_file"},
		"kes, no":      {"encryption: {service: kes}", "needs encryption.kes"},
		"kes, no cert": {"encryption: {kes: 'https://k'}", "kes_cert"},
		"kes":          {"encryption: {service: kes, kes: 'https://k', kes_cert: c, kes_key: k}", ""},
	} {
		_, err := Load(Sources{File: write(t, tt.text)})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "long enough") {
			t.Errorf("%s: the error shows the passphrase", name)
		}
	}
}
