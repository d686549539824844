"""NSS: modutil registers the module in a database of its own, certutil and cmsutil use it."""

from conformance.steps import Step, Suite

_CERTUTIL = "certutil -d sql:db -f pin"

SUITE = Suite(
    "nss",
    [
        Step(
            "register the module",
            "mkdir -p db && certutil -N -d sql:db --empty-password && "
            "modutil -dbdir sql:db -force -add tested -libfile $MODULE",
            keep="added",
        ),
        Step("list modules", "modutil -dbdir sql:db -list tested", keep="Name:|Status:|Slot Name|Token Name|Login"),
        *(
            Step(
                f"a self-signed certificate with an {kind} key",
                f"printf 'y\\n-1\\nn\\n' | {_CERTUTIL} -S -h $TOKEN -n {kind} -s CN={kind} -x -2 -t "
                f"CT,CT,CT -k {kind} {more} -z noise -v 9 -m {number} && "
                f"{_CERTUTIL} -L -h $TOKEN -n $TOKEN:{kind} -a > {kind}.pem && openssl verify -CAfile "
                f"{kind}.pem {kind}.pem",
                keep="OK$",
                changes=True,
            )
            for kind, more, number in (("rsa", "-g 2048", 7), ("ec", "-q nistp256", 8))
        ),
        Step("list certificates", f"{_CERTUTIL} -L -h $TOKEN | sort", keep=":"),
        Step("list keys", f"{_CERTUTIL} -K -h $TOKEN | sed 's/^<[ 0-9]*>//; /Checking token/d' | sort", keep=":"),
        *(
            Step(
                f"CMS signed with the {kind} key",
                f"cmsutil -S -d sql:db -f pin -N $TOKEN:{kind} -i message -o signed && "
                f"openssl cms -verify -inform DER -in signed -CAfile {kind}.pem -purpose any",
            )
            for kind in ("rsa", "ec")
        ),
        Step(
            "CMS decrypted with the rsa key",
            "openssl cms -encrypt -in message -aes256 -outform DER -out secret rsa.pem && "
            "cmsutil -D -d sql:db -f pin -i secret",
        ),
        Step(
            "import a PKCS #12 file",
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout own.key -subj /CN=own -days 9 -out "
            "own.pem 2>/dev/null && "
            "openssl pkcs12 -export -inkey own.key -in own.pem -name own -passout pass:secret -out own.p12 && "
            "pk12util -d sql:db -h $TOKEN -k pin -W secret -i own.p12",
            changes=True,
        ),
        Step(
            "list keys after it", f"{_CERTUTIL} -K -h $TOKEN | sed 's/^<[ 0-9]*>//; /Checking token/d' | sort", keep=":"
        ),
        *(
            Step(f"delete the {kind} key", f"{_CERTUTIL} -F -h $TOKEN -n $TOKEN:{kind}", changes=True)
            for kind in ("rsa", "ec", "own")
        ),
        Step(
            "pkcs11-tool list of what is left",
            "pkcs11-tool --module $MODULE --token-label $TOKEN --login --pin $PIN --list-objects",
            keep="Object|label",
            blocks=True,
        ),
    ],
    programs=("certutil", "modutil", "cmsutil", "pk12util", "openssl", "pkcs11-tool"),
    files={"pin": "$PIN", "message": "one virtual token over three real ones\n", "noise": "not random " * 20},
)
