// A TLS server whose key is in the token, 32 threads of clients, all in one process.
// Arguments: provider configuration, PIN, alias, handshakes. Creates the file "half" after half of them.

import java.io.*;
import java.net.InetAddress;
import java.nio.file.*;
import java.security.*;
import java.security.cert.Certificate;
import java.security.cert.X509Certificate;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.*;

public class Server {
    static final int THREADS = 32;

    /** Offers this key and no other: a token has several, and the protocol would choose. */
    static class OneKey extends X509ExtendedKeyManager {
        final String alias;
        final PrivateKey key;
        final X509Certificate[] chain;

        OneKey(String alias, PrivateKey key, Certificate[] chain) {
            this.alias = alias;
            this.key = key;
            this.chain = java.util.Arrays.copyOf(chain, chain.length, X509Certificate[].class);
        }

        public String chooseServerAlias(String type, Principal[] issuers, java.net.Socket socket) {
            return type.equals(key.getAlgorithm()) ? alias : null;
        }

        public String[] getServerAliases(String type, Principal[] issuers) {
            return new String[] {alias};
        }

        public String chooseClientAlias(String[] types, Principal[] issuers, java.net.Socket socket) {
            return null;
        }

        public String[] getClientAliases(String type, Principal[] issuers) {
            return null;
        }

        public X509Certificate[] getCertificateChain(String alias) {
            return chain;
        }

        public PrivateKey getPrivateKey(String alias) {
            return key;
        }
    }

    static void answer(SSLSocket socket) {
        try (socket) {
            socket.getOutputStream().write(socket.getInputStream().read());
        } catch (IOException failure) {
            System.err.println("server: " + failure);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Provider token = Security.getProvider("SunPKCS11").configure(arguments[0]);
        Security.addProvider(token);
        int count = Integer.parseInt(arguments[3]);
        KeyStore store = KeyStore.getInstance("PKCS11", token);
        store.load(null, arguments[1].toCharArray());
        Certificate[] chain = store.getCertificateChain(arguments[2]);

        for (Certificate each : chain)
            System.out.println("chain: " + ((X509Certificate) each).getSubjectX500Principal());

        PrivateKey key = (PrivateKey) store.getKey(arguments[2], null);
        SSLContext serving = SSLContext.getInstance("TLS");
        serving.init(new KeyManager[] {new OneKey(arguments[2], key, chain)}, null, null);
        SSLServerSocket listener = (SSLServerSocket) serving.getServerSocketFactory()
            .createServerSocket(0, 200, InetAddress.getLoopbackAddress());
        ExecutorService servers = Executors.newCachedThreadPool(task -> {
            Thread thread = new Thread(task);
            thread.setDaemon(true);
            return thread;
        });
        servers.submit(() -> {
            while (true) {
                SSLSocket socket = (SSLSocket) listener.accept();
                servers.submit(() -> answer(socket));
            }
        });

        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        trusted.setCertificateEntry("ca", chain[chain.length - 1]);
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(trusted);
        AtomicInteger done = new AtomicInteger(), failed = new AtomicInteger();
        ExecutorService clients = Executors.newFixedThreadPool(THREADS);
        for (int number = 0; number < count; number++)
            clients.submit(() -> {
                try {
                    // A context of its own: no session of another client is resumed.
                    SSLContext context = SSLContext.getInstance("TLS");
                    context.init(null, trust.getTrustManagers(), null);
                    try (SSLSocket socket = (SSLSocket) context.getSocketFactory()
                            .createSocket(InetAddress.getLoopbackAddress(), listener.getLocalPort())) {
                        socket.setSoTimeout(30000);
                        socket.getOutputStream().write(42);
                        if (socket.getInputStream().read() != 42)
                            throw new IOException("no answer");
                    }
                } catch (Exception failure) {
                    failed.incrementAndGet();
                    System.out.println("client: " + failure);
                }
                if (done.incrementAndGet() == count / 2)
                    Files.createFile(Path.of("half"));
                return null;
            });
        clients.shutdown();
        clients.awaitTermination(400, TimeUnit.SECONDS);
        System.out.println(done.get() + " handshakes, " + failed.get() + " failed");
        System.exit(done.get() == count && failed.get() == 0 ? 0 : 1);
    }
}
