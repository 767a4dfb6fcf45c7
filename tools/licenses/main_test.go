package main

import (
	"os"
	"path/filepath"
	"testing"
)

const root = "../.."

func TestDependenciesAreListed(t *testing.T) {
	want, err := list(root)
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(root, document))
	if err != nil || string(have) != want {
		t.Errorf("%s is not what is linked (go run ./tools/licenses writes it): %v", document, err)
	}
}

func TestACopyleftLicenceIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"GNU GENERAL PUBLIC LICENSE\nVersion 3":                                         "",
		"Mozilla Public License Version 2.0":                                            "",
		"Permission is hereby granted, free of charge,\nto any person obtaining a copy": "MIT",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := licenseOf(dir); got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
	if _, err := licenseOf(t.TempDir()); err == nil {
		t.Error("a module without a licence is taken")
	}
}
