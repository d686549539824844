// What a Node application does through pkcs11js, a line of output a thing.
const pkcs11 = require("pkcs11js");
const module_ = new pkcs11.PKCS11();

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

module_.load(process.env.MODULE);
module_.C_Initialize();
const slot = module_.C_GetSlotList(true).find((each) => module_.C_GetTokenInfo(each).label.trim() === process.env.TOKEN);
const session = module_.C_OpenSession(slot, pkcs11.CKF_RW_SESSION | pkcs11.CKF_SERIAL_SESSION);
does("state", () => module_.C_GetSessionInfo(session).state);
does("login", () => module_.C_Login(session, pkcs11.CKU_USER, process.env.PIN));
does("state", () => module_.C_GetSessionInfo(session).state);
does("login again", () => module_.C_Login(session, pkcs11.CKU_USER, process.env.PIN));
const key = does("AES", () => module_.C_GenerateKey(session, { mechanism: pkcs11.CKM_AES_KEY_GEN }, [
    { type: pkcs11.CKA_CLASS, value: pkcs11.CKO_SECRET_KEY },
    { type: pkcs11.CKA_TOKEN, value: false },
    { type: pkcs11.CKA_LABEL, value: "aes" },
    { type: pkcs11.CKA_VALUE_LEN, value: 32 },
    { type: pkcs11.CKA_ENCRYPT, value: true },
    { type: pkcs11.CKA_DECRYPT, value: true },
]));
const how = { mechanism: pkcs11.CKM_AES_CBC_PAD, parameter: Buffer.alloc(16) };
const secret = does("encrypt in parts", () => {
    module_.C_EncryptInit(session, how, key);
    return Buffer.concat([
        module_.C_EncryptUpdate(session, Buffer.from("incoming "), Buffer.alloc(32)),
        module_.C_EncryptUpdate(session, Buffer.from("message"), Buffer.alloc(32)),
        module_.C_EncryptFinal(session, Buffer.alloc(32)),
    ]);
});
does("decrypt", () => {
    module_.C_DecryptInit(session, how, key);
    return module_.C_Decrypt(session, secret, Buffer.alloc(64)).toString();
});
does("digest", () => {
    module_.C_DigestInit(session, { mechanism: pkcs11.CKM_SHA256 });
    module_.C_DigestUpdate(session, Buffer.from("mes"));
    module_.C_DigestUpdate(session, Buffer.from("sage"));
    return module_.C_DigestFinal(session, Buffer.alloc(32)).toString("hex").slice(0, 24);
});
does("digest without a beginning", () => module_.C_DigestFinal(session, Buffer.alloc(32)));
does("two beginnings", () => {
    module_.C_DigestInit(session, { mechanism: pkcs11.CKM_SHA256 });
    module_.C_DigestInit(session, { mechanism: pkcs11.CKM_SHA256 });
});
does("attributes", () => module_.C_GetAttributeValue(session, key, [{ type: pkcs11.CKA_LABEL }])[0].value.toString());
does("no such attribute", () => module_.C_GetAttributeValue(session, key, [{ type: pkcs11.CKA_MODULUS }]));
does("no such object", () => module_.C_DestroyObject(session, Buffer.from("ffffff7f00000000", "hex")));
does("destroy", () => module_.C_DestroyObject(session, key));
does("random", () => module_.C_GenerateRandom(session, Buffer.alloc(20)).length);
does("logout", () => module_.C_Logout(session));
does("close", () => module_.C_CloseSession(session));
does("close again", () => module_.C_CloseSession(session));
module_.C_Finalize();
module_.close();
