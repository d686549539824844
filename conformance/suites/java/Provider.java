// What a Java application does through SunPKCS11, one line of output a thing: "name: ok", or how it failed.
// Arguments: provider configuration, PIN. Run as a single file: java Provider.java pkcs11.cfg 1234

import java.security.*;
import java.security.cert.Certificate;
import java.security.interfaces.*;
import java.security.spec.*;
import java.util.*;
import javax.crypto.*;
import javax.crypto.spec.*;

public class Provider {
    interface Thing {
        Object run() throws Exception;
    }

    static java.security.Provider token;

    static void does(String name, Thing thing) {
        String said;
        try {
            Object result = thing.run();
            said = result instanceof Boolean ? (Boolean) result ? "ok" : "WRONG" : result == null ? "ok" : result.toString();
        } catch (Throwable failure) {
            StringBuilder chain = new StringBuilder("failed");
            for (Throwable each = failure; each != null; each = each.getCause())
                chain.append(": ").append(each.getClass().getSimpleName()).append(" ").append(each.getMessage());
            said = chain.toString();
        }
        System.out.println(name + ": " + said);
    }

    static KeyPair pair(String algorithm, AlgorithmParameterSpec spec) throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance(algorithm, token);
        generator.initialize(spec);
        return generator.generateKeyPair();
    }

    static boolean signs(String algorithm, KeyPair pair, AlgorithmParameterSpec parameters) throws Exception {
        byte[] message = new byte[5000];
        Signature signer = Signature.getInstance(algorithm, token);
        if (parameters != null)
            signer.setParameter(parameters);
        signer.initSign(pair.getPrivate());
        for (int at = 0; at < message.length; at += 1000)
            signer.update(message, at, 1000);
        byte[] signature = signer.sign();
        Signature verifier = Signature.getInstance(algorithm, token);
        if (parameters != null)
            verifier.setParameter(parameters);
        verifier.initVerify(pair.getPublic());
        verifier.update(message);
        boolean good = verifier.verify(signature);
        message[0] = 1;
        verifier.update(message);
        return good && !verifier.verify(signature);
    }

    static boolean encrypts(String transformation, Key there, Key back, AlgorithmParameterSpec parameters, int size)
            throws Exception {
        byte[] message = new byte[size];
        Arrays.fill(message, (byte) 7);
        Cipher cipher = Cipher.getInstance(transformation, token);
        cipher.init(Cipher.ENCRYPT_MODE, there, parameters);
        java.io.ByteArrayOutputStream secret = new java.io.ByteArrayOutputStream();
        int first = transformation.contains("GCM") ? 0 : size / 2;
        byte[] part = cipher.update(message, 0, first);
        if (part != null)
            secret.write(part);
        secret.write(cipher.doFinal(message, first, size - first));
        Cipher other = Cipher.getInstance(transformation, token);
        other.init(Cipher.DECRYPT_MODE, back, parameters);
        return Arrays.equals(message, other.doFinal(secret.toByteArray()));
    }

    static SecretKey secret(String algorithm, int bits) throws Exception {
        KeyGenerator generator = KeyGenerator.getInstance(algorithm, token);
        generator.init(bits);
        return generator.generateKey();
    }

    public static void main(String[] arguments) throws Exception {
        token = Security.getProvider("SunPKCS11").configure(arguments[0]);
        Security.addProvider(token);
        char[] pin = arguments[1].toCharArray();
        KeyStore store = KeyStore.getInstance("PKCS11", token);
        store.load(null, pin);
        does("entries at the start", () -> store.size());

        KeyPair rsa = pair("RSA", new RSAKeyGenParameterSpec(2048, RSAKeyGenParameterSpec.F4));
        for (String hash : List.of("MD5", "SHA1", "SHA224", "SHA256", "SHA384", "SHA512"))
            does(hash + "withRSA", () -> signs(hash + "withRSA", rsa, null));
        for (String hash : List.of("SHA1", "SHA256", "SHA512"))
            does(hash + "withRSASSA-PSS", () -> signs(hash + "withRSASSA-PSS", rsa, null));
        does("RSASSA-PSS", () -> signs("RSASSA-PSS", rsa,
            new PSSParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, 32, 1)));
        for (String curve : List.of("secp256r1", "secp384r1")) {
            KeyPair ec = pair("EC", new ECGenParameterSpec(curve));
            for (String hash : List.of("SHA1", "SHA256", "SHA384"))
                does(hash + "withECDSA on " + curve, () -> signs(hash + "withECDSA", ec, null));
            KeyPair other = pair("EC", new ECGenParameterSpec(curve));
            does("ECDH on " + curve, () -> {
                KeyAgreement one = KeyAgreement.getInstance("ECDH", token), two = KeyAgreement.getInstance("ECDH", token);
                one.init(ec.getPrivate());
                one.doPhase(other.getPublic(), true);
                two.init(other.getPrivate());
                two.doPhase(ec.getPublic(), true);
                return Arrays.equals(one.generateSecret(), two.generateSecret());
            });
        }
        KeyPair software = KeyPairGenerator.getInstance("RSA", "SunRsaSign").generateKeyPair();
        does("a software key signs", () -> signs("SHA256withRSA", software, null));
        does("RSA/ECB/PKCS1Padding", () -> encrypts("RSA/ECB/PKCS1Padding", rsa.getPublic(), rsa.getPrivate(), null, 100));
        does("RSA/ECB/NoPadding", () -> encrypts("RSA/ECB/NoPadding", rsa.getPublic(), rsa.getPrivate(), null, 256));

        IvParameterSpec iv = new IvParameterSpec(new byte[16]);
        for (int bits : List.of(128, 192, 256)) {
            SecretKey aes = secret("AES", bits);
            does("AES/CBC/PKCS5Padding " + bits, () -> encrypts("AES/CBC/PKCS5Padding", aes, aes, iv, 1001));
            does("AES/CBC/NoPadding " + bits, () -> encrypts("AES/CBC/NoPadding", aes, aes, iv, 1024));
            does("AES/ECB/PKCS5Padding " + bits, () -> encrypts("AES/ECB/PKCS5Padding", aes, aes, null, 1001));
            does("AES/CTR/NoPadding " + bits, () -> encrypts("AES/CTR/NoPadding", aes, aes, iv, 1001));
            does("AES/GCM/NoPadding " + bits, () -> encrypts("AES/GCM/NoPadding", aes, aes,
                new GCMParameterSpec(128, new byte[12]), 1001));
            does("AES/GCM/NoPadding " + bits + " with a changed tag", () -> {
                GCMParameterSpec gcm = new GCMParameterSpec(128, new byte[12]);
                Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding", token);
                cipher.init(Cipher.ENCRYPT_MODE, aes, gcm);
                byte[] secret = cipher.doFinal(new byte[100]);
                secret[secret.length - 1] ^= 1;
                cipher.init(Cipher.DECRYPT_MODE, aes, gcm);
                try {
                    cipher.doFinal(secret);
                } catch (GeneralSecurityException refused) {
                    return true;
                }
                return false;
            });
        }
        does("AES of known bytes", () -> {
            SecretKey known = new SecretKeySpec(new byte[16], "AES");
            Cipher cipher = Cipher.getInstance("AES/ECB/NoPadding", token);
            cipher.init(Cipher.ENCRYPT_MODE, known);
            return HexFormat.of().formatHex(cipher.doFinal(new byte[16])).substring(0, 24);
        });
        does("DESede", () -> {
            SecretKey des = secret("DESede", 168);
            return encrypts("DESede/CBC/PKCS5Padding", des, des, new IvParameterSpec(new byte[8]), 100);
        });
        for (String name : List.of("HmacMD5", "HmacSHA1", "HmacSHA256", "HmacSHA384", "HmacSHA512"))
            does(name, () -> {
                Mac mac = Mac.getInstance(name, token);
                mac.init(new SecretKeySpec("a secret that is known, and long enough for each of the hash functions here".getBytes(), "Hmac"));
                return HexFormat.of().formatHex(mac.doFinal("message".getBytes())).substring(0, 24);
            });
        for (String name : List.of("MD5", "SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512"))
            does(name, () -> HexFormat.of().formatHex(
                MessageDigest.getInstance(name, token).digest("message".getBytes())).substring(0, 24));
        does("SecureRandom", () -> {
            byte[] some = new byte[32];
            SecureRandom.getInstance("PKCS11", token).nextBytes(some);
            return !Arrays.equals(some, new byte[32]);
        });
        does("wrap AES under RSA", () -> {
            SecretKey aes = new SecretKeySpec(new byte[16], "AES");
            Cipher wrapper = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
            wrapper.init(Cipher.WRAP_MODE, rsa.getPublic());
            byte[] wrapped = wrapper.wrap(aes);
            wrapper.init(Cipher.UNWRAP_MODE, rsa.getPrivate());
            Key back = wrapper.unwrap(wrapped, "AES", Cipher.SECRET_KEY);
            return encrypts("AES/CBC/PKCS5Padding", back, aes, iv, 100);
        });

        SecretKey kept = secret("AES", 256);
        does("store a secret key", () -> {
            store.setKeyEntry("kept", kept, null, null);
            return null;
        });
        does("the stored secret key is the same", () -> {
            Key found = store.getKey("kept", null);
            return encrypts("AES/CBC/PKCS5Padding", kept, found, iv, 100);
        });
        does("store a known secret key", () -> {
            store.setKeyEntry("known", new SecretKeySpec(new byte[16], "AES"), null, null);
            return null;
        });
        does("the known secret key works", () -> {
            Cipher cipher = Cipher.getInstance("AES/ECB/NoPadding", token);
            cipher.init(Cipher.ENCRYPT_MODE, store.getKey("known", null));
            return HexFormat.of().formatHex(cipher.doFinal(new byte[16])).substring(0, 24);
        });
        KeyStore software_store = KeyStore.getInstance("PKCS12");
        software_store.load(new java.io.FileInputStream("own.p12"), "secret".toCharArray());
        Certificate[] chain = software_store.getCertificateChain("own");
        does("store a private key with its certificate", () -> {
            store.setKeyEntry("own", software_store.getKey("own", "secret".toCharArray()), null, chain);
            return null;
        });
        does("the stored private key signs for the certificate", () -> {
            KeyPair own = new KeyPair(store.getCertificate("own").getPublicKey(), (PrivateKey) store.getKey("own", null));
            return signs("SHA256withRSA", own, null);
        });
        does("the stored certificate is the same", () -> store.getCertificate("own").equals(chain[0]));
        does("store a certificate", () -> {
            store.setCertificateEntry("trusted", chain[0]);
            return null;
        });
        does("a new list", () -> {
            KeyStore again = KeyStore.getInstance("PKCS11", token);
            again.load(null, pin);
            return new TreeSet<>(Collections.list(again.aliases()));
        });
        does("aliases", () -> new TreeSet<>(Collections.list(store.aliases())));
        does("delete", () -> {
            store.deleteEntry("kept");
            store.deleteEntry("known");
            store.deleteEntry("own");
            return null;
        });
        does("aliases afterwards", () -> new TreeSet<>(Collections.list(store.aliases())));
    }
}
