"""Made-up secrets in real formats, assembled at run time so that no scanner finds one in the sources."""

from __future__ import annotations

import base64
import random
import string
from typing import NamedTuple

ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
LOWER = string.ascii_lowercase + string.digits
HEX = "0123456789abcdef"
URLSAFE = ALNUM + "_-"
BASE64 = ALNUM + "+/"


def noise(seed: str, length: int, alphabet: str = ALNUM) -> str:
    """Return random characters, the same for the same seed, with at least one digit, as a real secret would have."""
    chosen = random.Random(seed)
    text = "".join(chosen.choice(alphabet) for _ in range(length - 1))
    return text + chosen.choice("23456789")


def _b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _pem(kind: str, lines: int = 12) -> str:
    body = "\n".join(noise(f"{kind}{line}", 64, BASE64) for line in range(lines))
    return f"-----BEGIN {kind}-----\n{body}\n{noise(kind, 30, BASE64)}==\n-----END {kind}-----"


SHAPED: dict[str, str] = {
    "aws access key": "AKIA" + noise("a", 16, UPPER),
    "aws temporary key": "ASIA" + noise("b", 16, UPPER),
    "google api key": "AIza" + noise("c", 35, URLSAFE),
    "google oauth": "ya29." + noise("d", 68, URLSAFE),
    "google client secret": "GOCSPX-" + noise("e", 28, URLSAFE),
    "google refresh token": "1//0" + noise("f", 60, URLSAFE),
    "azure client secret": noise("g", 3) + "8Q~" + noise("h", 34, URLSAFE + "~."),
    "digitalocean": "dop_v1_" + noise("i", 64, HEX),
    "alibaba": "LTAI" + noise("j", 20),
    "heroku": "HRKU-" + noise("k", 60, URLSAFE),
    "fly.io": "fm2_" + noise("l", 80, BASE64),
    "netlify": "nfp_" + noise("m", 36),
    "planetscale": "pscale_tkn_" + noise("n", 43, URLSAFE),
    "tailscale": "tskey-auth-" + noise("o", 16) + "-" + noise("p", 32),
    "github personal": "ghp_" + noise("q", 36),
    "github oauth": "gho_" + noise("r", 36),
    "github app": "ghs_" + noise("s", 36),
    "github fine-grained": "github_pat_" + noise("t", 22) + "_" + noise("u", 59),
    "gitlab personal": "glpat-" + noise("v", 20, URLSAFE),
    "gitlab runner": "glrt-" + noise("w", 20, URLSAFE),
    "gitlab job": "glcbt-64_" + noise("x", 20, URLSAFE),
    "atlassian": "ATATT3xFfGF0" + noise("y", 180, URLSAFE + "="),
    "bitbucket": "ATBB" + noise("z", 32),
    "npm": "npm_" + noise("aa", 36),
    "pypi": "pypi-AgEIcHlwaS5vcmc" + noise("ab", 140, URLSAFE),
    "rubygems": "rubygems_" + noise("ac", 48, HEX),
    "crates.io": "cio" + noise("ad", 32),
    "docker hub": "dckr_pat_" + noise("ae", 27, URLSAFE),
    "nuget": "oy2" + noise("af", 43, LOWER),
    "artifactory": "AKCp" + noise("ag", 69),
    "circleci": "CCIPAT_" + noise("ah", 22) + "_" + noise("ai", 40, HEX),
    "buildkite": "bkua_" + noise("aj", 40, HEX),
    "sonarqube": "squ_" + noise("ak", 40, HEX),
    "slack bot": "xoxb-" + noise("al", 12, string.digits) + "-" + noise("am", 24),
    "slack user": "xoxp-" + noise("an", 12, string.digits) + "-" + noise("ao", 32, HEX),
    "slack rotated": "xoxe.xoxp-1-" + noise("ap", 140),
    "slack app": "xapp-1-A0" + noise("aq", 9, UPPER) + "-" + noise("ar", 64, HEX),
    "slack webhook": "https://hooks.slack.com/services/T"
    + noise("as", 8, UPPER)
    + "/B"
    + noise("at", 8, UPPER)
    + "/"
    + noise("au", 24),
    "discord webhook": "https://discord.com/api/webhooks/"
    + noise("av", 18, string.digits)
    + "/"
    + noise("aw", 68, URLSAFE),
    "discord bot": "M"
    + noise("ax", 25)
    + "."
    + noise("ay", 6, URLSAFE)
    + "."
    + noise("az", 38, URLSAFE),
    "telegram bot": noise("ba", 10, string.digits) + ":AA" + noise("bb", 33, URLSAFE),
    "stripe": "sk_live_" + noise("bc", 24),
    "stripe restricted": "rk_live_" + noise("bd", 24),
    "stripe webhook": "whsec_" + noise("be", 32),
    "square": "sq0atp-" + noise("bf", 22, URLSAFE),
    "shopify": "shpat_" + noise("bg", 32, HEX),
    "paypal": "access_token$production$" + noise("bh", 16, LOWER) + "$" + noise("bi", 32, HEX),
    "openai": "sk-" + noise("bj", 48),
    "openai project": "sk-proj-" + noise("bk", 120, URLSAFE),
    "anthropic": "sk-ant-api03-" + noise("bl", 93, URLSAFE) + "AA",
    "groq": "gsk_" + noise("bm", 52),
    "hugging face": "hf_" + noise("bn", 34),
    "replicate": "r8_" + noise("bo", 37),
    "perplexity": "pplx-" + noise("bp", 48, HEX),
    "databricks": "dapi" + noise("bq", 32, HEX),
    "sendgrid": "SG." + noise("br", 22, URLSAFE) + "." + noise("bs", 43, URLSAFE),
    "mailgun": "key-" + noise("bt", 32, HEX),
    "mailchimp": noise("bu", 32, HEX) + "-us12",
    "brevo": "xkeysib-" + noise("bv", 64, HEX) + "-" + noise("bw", 16),
    "twilio": "SK" + noise("bx", 32, HEX),
    "vault": "hvs." + noise("by", 90, URLSAFE),
    "terraform cloud": noise("bz", 14) + ".atlasv1." + noise("ca", 67, URLSAFE),
    "grafana service": "glsa_" + noise("cb", 32) + "_" + noise("cc", 8, HEX),
    "grafana cloud": "glc_" + noise("cd", 100, BASE64),
    "new relic": "NRAK-" + noise("ce", 27, UPPER),
    "sentry": "sntrys_" + noise("cf", 100, BASE64),
    "dynatrace": "dt0c01." + noise("cg", 24, UPPER) + "." + noise("ch", 64, UPPER),
    "honeycomb": "hcaik_01" + noise("ci", 56, LOWER),
    "postman": "PMAK-" + noise("cj", 24, HEX) + "-" + noise("ck", 34, HEX),
    "linear": "lin_api_" + noise("cl", 40),
    "notion": "ntn_" + noise("cm", 46),
    "airtable": "pat" + noise("cn", 14) + "." + noise("co", 64, HEX),
    "figma": "figd_" + noise("cp", 40, URLSAFE),
    "doppler": "dp.pt." + noise("cq", 43),
    "pulumi": "pul-" + noise("cr", 40, HEX),
    "supabase": "sbp_" + noise("cs", 40, HEX),
    "1password service": "ops_eyJ" + noise("ct", 200, URLSAFE),
    "age": "AGE-SECRET-KEY-1" + noise("cu", 58, UPPER),
    "facebook": "EAA" + noise("cv", 170),
    "json web token": f"{_b64('{' + chr(34) + 'alg' + chr(34) + ':' + chr(34) + 'HS256' + chr(34) + '}')}.{_b64('{' + chr(34) + 'sub' + chr(34) + ':' + chr(34) + '1234567890' + chr(34) + '}')}.{noise('cw', 43, URLSAFE)}",
    "mapbox": "sk.eyJ" + noise("cx", 60) + "." + noise("cy", 22),
    "bcrypt hash": "$2b$12$" + noise("da1", 53, ALNUM + "./"),
    "sha-512 crypt hash": "$6$rounds=5000$"
    + noise("da2", 16)
    + "$"
    + noise("da3", 86, ALNUM + "./"),
    "md5 crypt hash": "$1$" + noise("da4", 8) + "$" + noise("da5", 22, ALNUM + "./"),
    "yescrypt hash": "$y$j9T$" + noise("da6", 22) + "$" + noise("da7", 43, ALNUM + "./"),
    "argon2 hash": "$argon2id$v=19$m=65536,t=3,p=4$" + noise("da8", 22) + "$" + noise("da9", 43),
    "django hash": "pbkdf2_sha256$600000$" + noise("daa", 22) + "$" + noise("dab", 43) + "=",
    "ldap hash": "{SSHA}" + noise("dac", 32, BASE64),
    "vercel": "vcp_" + noise("dad", 56),
    "easypost": "EZAK" + noise("dae", 54),
    "openshift": "sha256~" + noise("daf", 43, URLSAFE),
    "cloudflare origin": "v1.0-" + noise("dag", 24, HEX) + "-" + noise("dah", 146, HEX),
    "yandex": "AQVN" + noise("dai", 36, URLSAFE),
    "octopus": "API-" + noise("daj", 26, UPPER),
    "posthog": "phx_" + noise("dak", 43),
    "dropbox": "sl." + noise("dal", 135, URLSAFE),
    "hubspot": "pat-" + "na1-" + "-".join(noise(f"dam{n}", n, HEX) for n in (8, 4, 4, 4, 12)),
    "launchdarkly": "sdk-" + "-".join(noise(f"dan{n}", n, HEX) for n in (8, 4, 4, 4, 12)),
    "intra42": "s-s4t2ud-" + noise("dao", 64, HEX),
    "lob": "live_" + noise("dap", 35, HEX),
    "gocardless": "live_" + noise("daq", 40, URLSAFE),
    "rsa key": _pem("RSA PRIVATE " + "KEY"),
    "openssh key": _pem("OPENSSH PRIVATE " + "KEY"),
    "pkcs8 key": _pem("PRIVATE " + "KEY"),
    "encrypted key": _pem("ENCRYPTED PRIVATE " + "KEY"),
    "pgp key": _pem("PGP PRIVATE " + "KEY BLOCK"),
}
"""Secrets that are recognised by their own shape."""


class Named(NamedTuple):
    """A secret that is recognizable by its context only; ``%s`` is its place in the text."""

    name: str
    around: str
    secret: str


PASSWORD = "correct-" + "h0rse!battery"
NAMED: tuple[Named, ...] = (
    Named("environment", "AWS_SECRET_ACCESS_KEY=%s", noise("da", 40, BASE64)),
    Named("exported", "export DEPLOY_TOKEN=%s", noise("db", 20)),
    Named("session token", "aws_session_token = %s", noise("dc", 200, BASE64)),
    Named("lower case", "db_password=%s", PASSWORD),
    Named("hyphen", "api-key: %s", noise("dd", 32, HEX)),
    Named("postgres", "PGPASSWORD=%s psql -h db", PASSWORD),
    Named("mysql variable", "MYSQL_PWD=%s mysql", PASSWORD),
    Named("comma inside", "password=%s host=db", "a,b;c" + PASSWORD),
    Named("bracket inside", "password: %s", "s3c)r}e]t9"),
    Named("keyword argument", "connect(host='db', password='%s')", PASSWORD),
    Named(
        "keyword argument, double quotes",
        'connect(host="db", password="%s", port=1)',
        "with blanks in it 9",
    ),
    Named("quote escaped inside", 'password = "%s"', 'half\\"other9'),
    Named("json", '{"user": "me", "client_secret": "%s"}', noise("de", 24)),
    Named("json without blanks", '{"user":"me","apiKey":"%s","x":1}', noise("df", 24)),
    Named(
        "json in json", '{"body": "{\\"access_token\\": \\"%s\\", \\"x\\": 1}"}', noise("dg", 24)
    ),
    Named(
        "json in json in json",
        r'"{\"a\": \"{\\\"refresh_token\\\": \\\"%s\\\"}\"}"',
        noise("dh", 24),
    ),
    Named("python repr", "{'auth_token': '%s', 'x': 1}", noise("di", 24)),
    Named("bytes repr", "{'secret_key': b'%s'}", noise("dj", 24)),
    Named("yaml", "  passphrase: %s\n  other: x", PASSWORD),
    Named("toml", 'signing_key = "%s"', noise("dk", 30)),
    Named("hash rocket", ":password => '%s'", PASSWORD),
    Named("go", 'password := "%s"', PASSWORD),
    Named("xml", "<server><password>%s</password></server>", PASSWORD),
    Named("escaped line end", "error\\npassword=%s\\nend", noise("dl", 12)),
    Named("option", "deploy --password %s --host x", PASSWORD),
    Named("option with equals sign", "deploy --token=%s --host x", noise("dm", 20)),
    Named("glued to a quotation", "PASSWORD='abc'%s run", PASSWORD),
    Named("option, quoted", 'deploy --api-key "%s" --host x', "with blanks 9"),
    Named("single hyphen option", "deploy -password %s", PASSWORD),
    Named(
        "failed command",
        "Command '['deploy', '--token', '%s']' returned non-zero exit status 1.",
        noise("dn", 20),
    ),
    Named("pair", "[('password', '%s'), ('x', 1)]", PASSWORD),
    Named("sshpass", "sshpass -p %s ssh host", PASSWORD),
    Named("mysql", "mysql -u root -p%s db", PASSWORD),
    Named("docker login", "docker login -u me -p %s registry", PASSWORD),
    Named("redis-cli", "redis-cli -h x -a %s ping", PASSWORD),
    Named("curl", "curl -u me:%s https://x", PASSWORD),
    Named("curl user", "curl --user 'me:%s' https://x", PASSWORD),
    Named("netrc", "machine x login me password %s", PASSWORD),
    Named("sql", "CREATE USER me IDENTIFIED BY '%s'", PASSWORD),
    Named("prose", "the password is %s, do not tell", PASSWORD),
    Named("prose, no digit", "password was '%s'", "opensesame"),
    Named("url", "https://me:%s@host/path", PASSWORD),
    Named("url without a user", "redis://:%s@host:6379/0", PASSWORD),
    Named("url with an at sign inside", "https://me:%s@host/", "p@ssw0rd@x"),
    Named("database url with a slash inside", "postgresql+asyncpg://me:%s@db:5432/x", "pa/ss/w0rd"),
    Named("mongodb", "mongodb+srv://me:%s@cluster.example.net/?retryWrites=true", PASSWORD),
    Named("token as user", "https://%s@github.com/x/y.git", noise("do", 40, HEX)),
    Named("oauth user", "https://oauth2:%s@gitlab.com/x/y.git", noise("dp", 20)),
    Named(
        "signed url",
        "https://x.blob.core.windows.net/c?sv=2022&sig=%s&se=2030",
        noise("dq", 43) + "%3D",
    ),
    Named(
        "s3 signature", "https://b.s3.amazonaws.com/k?X-Amz-Signature=%s&x=1", noise("dr", 64, HEX)
    ),
    Named("query token", "GET /x?access_token=%s HTTP/1.1", noise("ds", 30)),
    Named("fragment", "https://x/cb#id_token=%s&state=1", noise("dt", 30)),
    Named("form", "grant=code&client_secret=%s&x=1", noise("du", 30)),
    Named("bearer header", "Authorization: Bearer %s", noise("dv", 30, URLSAFE)),
    Named(
        "basic header", "authorization: Basic %s", base64.b64encode(b"me:hunter2hunter").decode()
    ),
    Named("token header", "> Authorization: token %s", noise("dw", 40, HEX)),
    Named("header in json", '{"Authorization": "Bearer %s", "Accept": "x"}', noise("dx", 30)),
    Named("header in escaped json", '"{\\"Authorization\\": \\"Bearer %s\\"}"', noise("dy", 30)),
    Named("header pair", "headers=[('authorization', 'Bearer %s')]", noise("dz", 30)),
    Named(
        "proxy header",
        "Proxy-Authorization: Basic %s",
        base64.b64encode(b"you:longenough1").decode(),
    ),
    Named("bearer alone", "rejected bearer %s by x", noise("ea", 30)),
    Named("api key header", "X-Api-Key: %s", noise("eb", 32, HEX)),
    Named("vault header", "x-vault-token: %s", noise("ec", 26)),
    Named("cookie", "Cookie: theme=dark; session=%s; x=1", noise("ed", 40)),
    Named("set-cookie", "Set-Cookie: sid=%s; HttpOnly; Secure", noise("ee", 40)),
    Named(
        "azure storage",
        "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=%s;EndpointSuffix=core",
        noise("ef", 86, BASE64) + "==",
    ),
    Named(
        "azure service bus",
        "Endpoint=sb://x;SharedAccessKeyName=Root;SharedAccessKey=%s",
        noise("eg", 43, BASE64) + "=",
    ),
    Named("ado.net", "Server=x;Database=y;User Id=me;Password=%s;", PASSWORD),
    Named("npmrc", "//registry.example/:_authToken=%s", noise("eh", 36)),
    Named(
        "docker config",
        '{"auths": {"x": {"auth": "%s"}}}',
        base64.b64encode(b"me:longpassword1").decode(),
    ),
    Named("django", "SECRET_KEY = 'django-insecure-%s'", noise("ei", 50)),
    Named("dsn", "SENTRY_DSN=https://%s@o1.ingest.sentry.io/1", noise("ej", 32, HEX)),
    Named("otlp headers", "OTEL_EXPORTER_OTLP_HEADERS=api-key=%s", noise("fa", 32)),
    Named(
        "otlp headers of a signal, several",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS=x-team=%s,x-other=1",
        noise("fb", 32),
    ),
    Named("curl, glued", "curl -uuser:%s https://x", PASSWORD),
    Named("curl, glued in a cluster", "curl -sSfuuser:%s https://x", PASSWORD),
    Named("curl cookie", "curl -b session=%s https://x", noise("fc", 24)),
    Named("curl long cookie", "curl --cookie session=%s https://x", noise("fd", 24)),
    Named("httpie", "http -a me:%s GET x", PASSWORD),
    Named("httpie long", "https --auth=me:%s x", PASSWORD),
    Named("twine", "twine upload -u me -p %s dist/x", PASSWORD),
    Named("keytool", "keytool -storepass %s -keystore x", PASSWORD),
    Named("jarsigner", "jarsigner -keypass %s -keystore x", PASSWORD),
    Named("sonar", "mvn sonar:sonar -Dsonar.login=%s", noise("fe", 40, HEX)),
    Named("aws configure", "aws configure set aws_secret_access_key %s", noise("ff", 40, BASE64)),
    Named(
        "aws configure, a profile",
        "aws configure set --profile=x aws_session_token %s",
        noise("fg", 40, BASE64),
    ),
    Named("git config", "git config --global github.token %s", noise("fh", 40, HEX)),
    Named("npm config", "npm config set //registry.example/:_authToken %s", noise("fi", 36)),
    Named("poetry config", "poetry config pypi-token.pypi %s", noise("fj", 36)),
    Named("gh secret", "gh secret set DEPLOY_TOKEN --body %s", noise("fk", 24)),
    Named("fernet", "AIRFLOW__CORE__FERNET_KEY=%s", noise("fl", 43, URLSAFE) + "="),
    Named("personal access token", "AZURE_DEVOPS_EXT_PAT=%s", noise("fm", 52, LOWER)),
    Named("kubeconfig", "    client-key-data: %s", noise("fn", 80, BASE64)),
    Named("rust", 'password: Some("%s with a rest")', PASSWORD),
    Named("rust twice", 'token: Some(String("%s"))', noise("fo", 24)),
    Named("secret type", "password=Secret('%s and more')", PASSWORD),
    Named("yaml list", "passwords:\n  - %s\n  - other\nhost: x", PASSWORD),
    Named("yaml anchor", "password: &main %s", PASSWORD),
    Named("yaml tag", "password: !vault %s", PASSWORD),
    Named("toml in three quotes", 'password = """%s\nmore"""', PASSWORD),
    Named("cdata", "<password><![CDATA[%s]]></password>", "a]b>c" + PASSWORD),
    Named("xml attributes", '<add key="password" value="%s"/>', PASSWORD),
    Named("xml attributes, turned", '<add value="%s" key="password"/>', PASSWORD),
    Named("xml entry", '<entry key="password">%s</entry>', PASSWORD),
    Named("json of names", '{"name": "DB_PASSWORD", "value": "%s"}', PASSWORD),
    Named("yaml of names", "- name: DB_PASSWORD\n  value: %s", PASSWORD),
    Named(
        "multipart",
        'Content-Disposition: form-data; name="password"\r\n\r\n%s\r\n--x--',
        PASSWORD,
    ),
    Named("a zero-width character in the name", "pass\u200bword=%s", PASSWORD),
    Named("a soft hyphen in the name", "api_to\u00adken: %s", noise("fp", 24)),
    Named("go dsn", "me:%s@tcp(127.0.0.1:3306)/db", PASSWORD),
    Named("go dsn of a socket", "me:%s@unix(/run/mysql.sock)/db", PASSWORD),
    Named(
        "telegram path",
        "https://api.telegram.org/bot%s/getMe",
        noise("fq", 9, "12345679") + ":AA" + noise("fr", 33, URLSAFE),
    ),
    Named("coloured", "\x1b[31mpassword\x1b[0m=%s", PASSWORD),
    Named("redis server", "requirepass %s", PASSWORD),
    Named("ldap server", "bindpw %s", PASSWORD),
    Named("workflow command", "::add-mask::%s", PASSWORD),
    Named(
        "mnemonic",
        "mnemonic: %s",
        "legal winner thank year wave sausage worth useful legal winner thank yellow",
    ),
    Named("piped", "echo %s | docker login -u deploy --password-stdin", PASSWORD),
    Named("piped token", "printf '%s' | gh auth login --with-token", PASSWORD),
    Named("certificate", "curl -E client.pem:%s https://x.example", PASSWORD),
    Named("literal", "kubectl create secret generic db --from-literal=user1=%s", PASSWORD),
    Named("cargo", "cargo login %s", noise("ea", 32)),
    Named("vault", "vault login %s", noise("eb", 26)),
    Named("nuget", "dotnet nuget push a.nupkg -k %s", noise("ec", 46)),
    Named("sqlcmd", "sqlcmd -S db -U sa -P %s", PASSWORD),
    Named("ssh-keygen", "ssh-keygen -t ed25519 -N %s", PASSWORD),
    Named("influx", "influx write -t %s", noise("ed", 86)),
    Named("snmp", "snmpwalk -v2c -c %s host", PASSWORD),
    Named("digest", 'Authorization: Digest username="u", response="%s"', noise("ee", 32, HEX)),
    Named("camel case", '{"smtpPass": "%s", "mysqlPwd": "x"}', PASSWORD),
    Named("camel case, personal access token", "azureDevopsExtPat: %s", noise("ga", 52, LOWER)),
    Named("admin key", "ALGOLIA_ADMIN_KEY=%s", noise("gb", 32, HEX)),
    Named("session cookie", "_gitlab_session=%s", noise("gc", 32, HEX)),
    Named("session cookie of php", "PHPSESSID=%s", noise("gd", 26, LOWER)),
    Named("bundler", 'BUNDLE_ENTERPRISE__CONTRIBSYS__COM: "%s"', "7844a7c4:71b83b46"),
    Named("pgpass", "db.example:5432:app:bob:%s", PASSWORD),
    Named("verbatim text", 'ClientSecret = @"%s";', PASSWORD),
    Named("raw text", "password = rb'%s'", PASSWORD),
    Named("setx", "setx DEPLOY_TOKEN %s", noise("ge", 24)),
    Named("fish", "set -gx DB_PASSWORD %s", PASSWORD),
    Named("csh", "setenv MYSQL_PWD %s", PASSWORD),
    Named("dockerfile", "ENV DB_PASSWORD %s", PASSWORD),
    Named("makefile", "API_KEY ?= %s", noise("gf", 24)),
    Named("makefile without blanks", "API_KEY?=%s", noise("gg", 24)),
    Named("shell, appended", "TOKEN+=%s", noise("gh", 24)),
    Named("table", "| `DB_PASSWORD` | `%s` |", PASSWORD.replace("|", "")),
    Named("markdown", "`API_TOKEN`: `%s`", noise("gi", 24)),
    Named(
        "percent-encoded header",
        "x%20Authorization%3A%20Basic%20%s",
        base64.b64encode(b"me:hunter2hunter2hunter2").decode().rstrip("="),
    ),
    Named(
        "percent-encoded url", "https://x/?u=redis%3A%2F%2F%3A%s%40c%3A6379&x=1", noise("gj", 20)
    ),
    Named("a variation selector in the name", "pass\ufe0fword=%s", PASSWORD),
    Named("a filler in the name", "api_to\u3164ken: %s", noise("gk", 24)),
    Named("a selector of the supplement in the name", "sec\U000e0101ret=%s", PASSWORD),
    Named("header list", "Cookie: [sid=%s]", noise("ef", 32)),
)

SECRETS = (*SHAPED.values(), *(named.secret for named in NAMED))

HARMLESS: tuple[str, ...] = (
    "cargo login --registry internal",
    "snyk auth failed, see https://docs.example/troubleshooting",
    "echo done | docker ps --all",
    "snmpwalk -v2c host",
    "the recovery phrase: is asked for once",
    "::add-mask:: is printed by the runner",
    "tests/test_tokens.py::test_secret_is_hidden[password-1] PASSED",
    "src/acme/token.py:12: error: Incompatible types in assignment",
    "src/acme/secrets.py:3:5: F401 `os` imported but unused",
    "FAILED tests/test_auth.py::test_login - AssertionError: assert 401 == 200",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 by Jane Doe <jane@example.com>",
    "HEAD is now at 1a2b3c4d Merge pull request #42 from acme/feature",
    "docker pull registry.example.com:5000/acme/app@sha256:" + "ab" * 32,
    "https://example.com/path/to/page?page=2&sort=name#section",
    "http://127.0.0.1:4318/v1/traces",
    "Unexpected token: } in JSON at position 17",
    "SyntaxError: invalid syntax (module.py, line 3)",
    "12 passed, 3 failed, 1 skipped in 4.56s",
    "All checks passed!",
    "max_tokens: 4096, tokens=512, token_count=3",
    "author: Jane Doe, passed: 3, compass: north",
    "The token is invalid or expired",
    "password is required",
    "basic authentication is not supported",
    "Bearer authentication required",
    "-rw-r--r-- 1 root root 4096 Nov 21 04:22 /usr/lib/python3.11/site-packages/opentelemetry/sdk/trace/__init__.py",
    "pip install opentelemetry-api==1.45.2 --no-deps",
    "uuid 0af76519-16cd-43dd-8448-eb211c80319c",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "ruff check . --select E,F,W --output-format=concise",
    "python -u -m pytest -q tests/test_x.py",
    "tar -p -xf archive.tar && cp -pr a b",
    "git clone git@github.com:acme/app.git",
    'Traceback (most recent call last):\n  File "/srv/app/main.py", line 10, in <module>\n    main()\nValueError: 3 is not 4',
    "SELECT name, id FROM users WHERE id = 7",
    '[tool.ruff.lint]\nselect = ["E", "F"]',
    "jwt.exceptions.InvalidTokenError: Signature has expired",
    "acme.MissingCredentialsError: no credentials found for host db",
    "    if token == self._token and password != other:",
    "def login(user: str, password: str, token: str | None = None) -> bool:",
    '{"password": null, "token": "", "api_key": None}',
    "no token was provided",
    "| `DB_PASSWORD` | the password of the database |",
    "| SPANBUS_UP_TOKEN | text | of the page, 8 characters at least |",
    "`token` is the name of a setting",
    "set -e token; set -x; env token expired",
    "GET /a%20b%2Fc%3Fd?e=f%3Dg HTTP/1.1",
    "100% of 3 tests, 50%25 done",
    "filePath: x, renderPass 2, bypass=3, globPath=*.py",
    "test_live_messages_of_2_publishers_are_bounded_and_counted PASSED",
    "live_reload_of_the_development_server_is_on",
    "⚠\ufe0f 1\ufe0f\u20e3 stay",
    "naïve café, 日本語, emoji 🚀 stay",
    "line one\n\tline two",
)
"""Texts that redaction must not change."""
