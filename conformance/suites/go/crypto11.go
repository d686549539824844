// What a Go application does through crypto11, a line of output a thing.
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/ThalesIgnite/crypto11"
)

const threads, each = 32, 20

func does(name string, outcome interface{}, err error) {
	if err != nil {
		outcome = fmt.Sprintf("failed: %v", err)
	}
	fmt.Printf("%s: %v\n", name, outcome)
}

func must(name string, err error) {
	does(name, "ok", err)
	if err != nil {
		os.Exit(1)
	}
}

func main() {
	token, err := crypto11.Configure(&crypto11.Config{
		Path: os.Getenv("MODULE"), TokenLabel: os.Getenv("TOKEN"), Pin: os.Getenv("PIN"),
	})
	must("configure", err)
	digest := sha256.Sum256([]byte("message"))

	pair, err := token.GenerateRSAKeyPairWithLabel([]byte("1"), []byte("rsa"), 2048)
	must("RSA pair", err)
	public := pair.Public().(*rsa.PublicKey)
	signature, err := pair.Sign(rand.Reader, digest[:], crypto.SHA256)
	must("RSA sign", err)
	must("RSA verify", rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature))
	signature, err = pair.Sign(rand.Reader, digest[:], &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256})
	must("PSS sign", err)
	must("PSS verify", rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, nil))
	secret, err := rsa.EncryptPKCS1v15(rand.Reader, public, []byte("message"))
	must("RSA encrypt, outside", err)
	clear, err := pair.Decrypt(rand.Reader, secret, nil)
	does("RSA decrypt", string(clear), err)

	curve, err := token.GenerateECDSAKeyPairWithLabel([]byte("2"), []byte("ec"), elliptic.P256())
	must("EC pair", err)
	signature, err = curve.Sign(rand.Reader, digest[:], crypto.SHA256)
	does("EC sign and verify", err == nil && ecdsa.VerifyASN1(curve.Public().(*ecdsa.PublicKey), digest[:], signature), err)

	aes, err := token.GenerateSecretKeyWithLabel([]byte("3"), []byte("aes"), 256, crypto11.CipherAES)
	must("AES key", err)
	gcm, err := aes.NewGCM()
	must("GCM", err)
	nonce := make([]byte, gcm.NonceSize())
	sealed := gcm.Seal(nil, nonce, []byte("message"), []byte("associated"))
	clear, err = gcm.Open(nil, nonce, sealed, []byte("associated"))
	does("GCM open", string(clear), err)
	_, err = gcm.Open(nil, nonce, sealed, []byte("other"))
	does("GCM open with other data", err != nil, nil)

	hmac, err := token.GenerateSecretKeyWithLabel([]byte("4"), []byte("hmac"), 256, crypto11.CipherGeneric)
	must("HMAC key", err)
	sums := [][]byte{}
	for range []int{1, 2} {
		hash, err := hmac.NewHMAC(0x251, 32) // CKM_SHA256_HMAC
		must("HMAC", err)
		hash.Write([]byte("mess"))
		hash.Write([]byte("age"))
		sums = append(sums, hash.Sum(nil))
	}
	does("HMAC twice", bytes.Equal(sums[0], sums[1]), nil)

	failed := make(chan error)
	for range [threads]int{} {
		go func() {
			for range [each]int{} {
				made, err := curve.Sign(rand.Reader, digest[:], crypto.SHA256)
				if err == nil && !ecdsa.VerifyASN1(curve.Public().(*ecdsa.PublicKey), digest[:], made) {
					err = fmt.Errorf("a wrong signature")
				}
				if err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range [threads]int{} {
		if err := <-failed; err != nil {
			does("goroutine", "", err)
		}
	}
	does("goroutines ended", threads, nil)

	pairs, err := token.FindAllKeyPairs()
	does("pairs", len(pairs), err)
	found, err := token.FindKeyPair(nil, []byte("rsa"))
	does("find a pair", found != nil, err)
	must("delete RSA", pair.Delete())
	must("delete EC", curve.Delete())
	must("delete AES", aes.Delete())
	must("delete HMAC", hmac.Delete())
	pairs, err = token.FindAllKeyPairs()
	does("pairs afterwards", len(pairs), err)
	must("close", token.Close())
}
