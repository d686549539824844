// What a Node application does through graphene-pk11, a line of output a thing.
const graphene = require("graphene-pk11");

function does(name, thing) {
    try {
        const result = thing();
        console.log(`${name}: ${["boolean", "number", "string"].includes(typeof result) ? result : "ok"}`);
        return result;
    } catch (error) {
        console.log(`${name}: failed: ${error.message.split("\n")[0]}`);
        return undefined;
    }
}

const library = graphene.Module.load(process.env.MODULE, "tested");
library.initialize();
const slots = library.getSlots(true);
let slot;
for (let at = 0; at < slots.length; at++)
    if (slots.items(at).getToken().label.trim() === process.env.TOKEN)
        slot = slots.items(at);
const session = slot.open(graphene.SessionFlag.RW_SESSION | graphene.SessionFlag.SERIAL_SESSION);
does("login", () => session.login(process.env.PIN));

const aes = does("AES", () => session.generateKey(graphene.KeyGenMechanism.AES, {
    keyType: graphene.KeyType.AES, valueLen: 32, encrypt: true, decrypt: true, token: true, label: "aes",
}));
for (const [name, mechanism] of [
    ["AES_CBC_PAD", { name: "AES_CBC_PAD", params: Buffer.alloc(16) }],
    ["AES_GCM", { name: "AES_GCM", params: new graphene.AesGcm240Params(Buffer.alloc(12), Buffer.from("aad"), 128) }],
]) {
    const secret = does(`encrypt ${name}`, () => session.createCipher(mechanism, aes).once(Buffer.from("message"), Buffer.alloc(100)));
    does(`decrypt ${name}`, () => session.createDecipher(mechanism, aes).once(secret, Buffer.alloc(100)).toString());
}
for (const [kind, mechanism, pub, priv, signing] of [
    ["RSA", graphene.KeyGenMechanism.RSA, { modulusBits: 2048, publicExponent: Buffer.from([1, 0, 1]) }, {}, "SHA256_RSA_PKCS"],
    ["EC", graphene.KeyGenMechanism.EC, { paramsECDSA: graphene.NamedCurve.getByName("secp256r1").value }, {}, "ECDSA"],
]) {
    const keys = does(`${kind} pair`, () => session.generateKeyPair(mechanism,
        { keyType: graphene.KeyType[kind], verify: true, token: true, label: kind, ...pub },
        { keyType: graphene.KeyType[kind], sign: true, token: true, label: kind, ...priv }));
    const data = Buffer.from("twenty bytes of text");
    const signature = does(`${kind} sign`, () => session.createSign(signing, keys.privateKey).once(data));
    does(`${kind} verify`, () => session.createVerify(signing, keys.publicKey).once(data, signature));
    if (kind === "RSA")
        does("RSA sign in parts", () => {
            const parts = session.createSign(signing, keys.privateKey);
            parts.update("twenty bytes");
            parts.update(" of text");
            return parts.final().equals(signature);
        });
}
const digest = session.createDigest("sha256");
does("digest", () => digest.once("message").toString("hex").slice(0, 24));
does("random", () => session.generateRandom(32).length);
does("count", () => session.find({ token: true }).length);
does("label", () => session.find({ label: "aes" }).items(0).label);
does("destroy", () => session.find({ token: true }, (object) => session.destroy(object)));
does("count afterwards", () => session.find({ token: true }).length);
does("logout", () => session.logout());
session.close();
library.finalize();
