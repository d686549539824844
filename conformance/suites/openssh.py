"""OpenSSH: ssh-keygen -D, and an agent that signs with keys of the token."""

from conformance.steps import Step, Suite

_AGENT = (
    'eval "$(ssh-agent -s -P "/*")" >/dev/null && trap "kill $SSH_AGENT_PID" EXIT && '
    "ssh-add -s $MODULE >/dev/null 2>&1 && "
)
_MAKE = "pkcs11-tool --module $MODULE --token-label $TOKEN --login --pin $PIN --keypairgen"

SUITE = Suite(
    "openssh",
    [
        Step("make an RSA key", f"{_MAKE} --key-type rsa:2048 --id 01 --label rsa", keep="", changes=True),
        Step("make an EC key", f"{_MAKE} --key-type EC:prime256v1 --id 02 --label ec", keep="", changes=True),
        Step("ssh-keygen -D", "ssh-keygen -D $MODULE | sort | sed 's/ [A-Za-z0-9+/=]* / <key> /'"),
        Step("the agent's keys", _AGENT + "ssh-add -L | sort | sed 's/ [A-Za-z0-9+/=]* / <key> /'"),
        *(
            Step(
                f"the agent signs with {kind}",
                _AGENT + f"ssh-add -L | grep {kind} | head -1 > key.pub && rm -f message.sig && "
                "ssh-keygen -Y sign -n file -f key.pub message && "
                'echo "me $(cut -d" " -f1,2 key.pub)" > allowed && '
                "ssh-keygen -Y verify -n file -f allowed -I me -s message.sig < message",
                hide="SHA256:.*",
            )
            for kind in ("rsa", "ecdsa")
        ),
    ],
    programs=("ssh-keygen", "ssh-agent", "ssh-add", "pkcs11-tool"),
    files={"message": "one virtual token over three real ones\n", "askpass": "#!/bin/sh\necho $PIN\n"},
    environment={"SSH_ASKPASS": "$SCRATCH/askpass", "SSH_ASKPASS_REQUIRE": "force"},
)
