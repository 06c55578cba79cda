"""More made-up secrets: tokens of newer services, and secrets in the syntax of tools, languages and configuration files."""

from __future__ import annotations

import base64
import string

from secrets_corpus import BASE64, HEX, LOWER, PASSWORD, UPPER, URLSAFE, Named
from secrets_corpus import noise as _noise

BASE32 = string.ascii_uppercase + "234567"


def noise(seed: str, length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """Return random characters of the alphabet, the same for the same seed."""
    text = _noise(f"more {seed}", length, alphabet)
    return text if text[-1] in alphabet else text[:-1] + alphabet[0]


def _uuid(seed: str) -> str:
    return "-".join(noise(f"{seed}{size}", size, HEX) for size in (8, 4, 4, 4, 12))


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SHAPED_MORE: dict[str, str] = {
    "azure devops new pat": noise("1", 52)
    + "JQQJ99"
    + noise("2", 18, UPPER)
    + "AZDO"
    + noise("3", 4),
    "cloudflare api token v2": "cfut_" + noise("4", 40),
    "deepseek": "sk-" + noise("5", 32, HEX),
    "openrouter": "sk-or-v1-" + noise("6", 64, HEX),
    "langsmith": "lsv2_pt_" + noise("7", 32, HEX) + "_" + noise("8", 10, HEX),
    "langfuse": "sk-lf-" + _uuid("9"),
    "xai": "xai-" + noise("10", 80),
    "fireworks": "fw_" + noise("11", 24),
    "together": "tgp_v1_" + noise("12", 43, URLSAFE),
    "tavily": "tvly-dev-" + noise("14", 32),
    "pinecone": "pcsk_" + noise("15", 6) + "_" + noise("16", 63),
    "weights": "wandb_v1_" + noise("17", 60),
    "e2b": "e2b_" + noise("18", 40, HEX),
    "npm granular": "npm_" + noise("21", 36),
    "jfrog ref": "cmVmdGtuOjAxOj" + noise("22", 50),
    "jfrog access": "eyJ2ZXIiOiIyIiwidHlwIjoiSldUIi"
    + noise("23", 40)
    + "."
    + noise("24", 80)
    + "."
    + noise("25", 80, URLSAFE),
    "clojars": "CLOJARS_" + noise("26", 60, LOWER),
    "gitlab deploy": "gldt-" + noise("27", 20, URLSAFE),
    "gitlab feed": "glft-" + noise("28", 20, URLSAFE),
    "gitlab oauth": "gloas-" + noise("29", 64, HEX),
    "gitlab k8s agent": "glagent-" + noise("30", 50, URLSAFE),
    "gitlab scim": "glsoat-" + noise("31", 20, URLSAFE),
    "gitlab imap": "glimt-" + noise("32", 25, URLSAFE),
    "gitlab routable": "glpat-" + noise("33", 27, URLSAFE) + ".01." + noise("34", 9, LOWER),
    "github refresh": "ghr_" + noise("35", 76),
    "slack config": "xoxe-1-" + noise("36", 146),
    "slack workflow hook": "https://hooks.slack.com/triggers/T"
    + noise("37", 8, UPPER)
    + "/"
    + noise("38", 13, string.digits)
    + "/"
    + noise("39", 32, HEX),
    "teams hook": "https://acme.webhook.office.com/webhookb2/"
    + _uuid("40")
    + "@"
    + _uuid("41")
    + "/IncomingWebhook/"
    + noise("42", 32, HEX)
    + "/"
    + _uuid("43"),
    "google chat hook key": "https://chat.googleapis.com/v1/spaces/AAAA/messages?key=AIza"
    + noise("44", 35, URLSAFE)
    + "&token="
    + noise("45", 43, URLSAFE),
    "stripe test": "sk_test_" + noise("46", 24),
    "stripe org": "sk_org_live_" + noise("47", 60),
    "square access": "EAAA" + noise("48", 60, URLSAFE),
    "square sandbox": "sq0csp-" + noise("49", 43, URLSAFE),
    "plaid": "access-production-" + _uuid("50"),
    "razorpay": "rzp_live_" + noise("51", 14),
    "flutterwave": "FLWSECK-" + noise("52", 32, HEX) + "-X",
    "paystack": "sk_live_" + noise("53", 40, HEX),
    "adyen": "AQE" + noise("54", 90, BASE64),
    "shopify custom": "shpca_" + noise("55", 32, HEX),
    "shopify shared": "shpss_" + noise("56", 32, HEX),
    "twitch": "oauth:" + noise("57", 30, LOWER),
    "dropbox long": "sl.u." + noise("58", 140, URLSAFE),
    "clickup": "pk_" + noise("62", 8, string.digits) + "_" + noise("63", 32, UPPER),
    "typeform": "tfp_" + noise("64", 44, URLSAFE) + "_" + noise("65", 15),
    "contentful": "CFPAT-" + noise("66", 43, URLSAFE),
    "prefect": "pnu_" + noise("67", 36),
    "readme": "rdme_" + noise("68", 70, LOWER),
    "duffel": "duffel_live_" + noise("69", 43, URLSAFE),
    "frame.io": "fio-u-" + noise("70", 64, URLSAFE),
    "scalingo": "tk-us-" + noise("71", 48, URLSAFE),
    "sendinblue smtp": "xsmtpsib-" + noise("72", 64, HEX) + "-" + noise("73", 16),
    "newrelic insert": "NRII-" + noise("75", 32, URLSAFE),
    "newrelic browser": "NRJS-" + noise("76", 19, HEX),
    "grafana api key": "eyJrIjoi" + noise("77", 70),
    "confluent cloud": "cflt" + noise("78", 60, BASE64),
    "vault batch": "hvb." + noise("79", 150, URLSAFE),
    "vault legacy": "s." + noise("80", 24),
    "flyio v1": "FlyV1 fm2_" + noise("82", 100, BASE64),
    "render": "rnd_" + noise("83", 28),
    "neon": "napi_" + noise("87", 64, LOWER),
    "turso/upstash jwt": "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9."
    + noise("88", 80, URLSAFE)
    + "."
    + noise("89", 86, URLSAFE),
    "jwe": "eyJhbGciOiJSU0EtT0FFUCJ9."
    + ".".join(noise(f"90{n}", n, URLSAFE) for n in (342, 16, 80, 22)),
    "paseto": "v4.local." + noise("91", 100, URLSAFE),
    "aws bedrock": "ABSK" + noise("92", 110, BASE64),
    "aws mws": "amzn.mws." + _uuid("93"),
    "gcp oauth ya29 a0": "ya29.a0A" + noise("94", 160, URLSAFE),
    "firebase fcm": "AAAA" + noise("95", 7, URLSAFE) + ":APA91b" + noise("96", 134, URLSAFE),
    "alicloud sts": "STS." + noise("97", 25),
    "tencent": "AKID" + noise("98", 32),
    "ssh2 key": "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n"
    + noise("100", 64, BASE64)
    + "\n"
    + noise("101", 64, BASE64)
    + "\n---- END SSH2 ENCRYPTED PRIVATE KEY ----",
    "putty key": "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: x\nPublic-Lines: 1\n"
    + noise("102", 64, BASE64)
    + "\nPrivate-Lines: 1\n"
    + noise("103", 48, BASE64)
    + "\nPrivate-MAC: "
    + noise("104", 64, HEX),
    "wireguard": "[Interface]\nPrivateKey = " + noise("105", 43, BASE64) + "=",
    "ec key one line": "-----BEGIN EC PRIVATE KEY-----\\n"
    + noise("106", 64, BASE64)
    + "\\n"
    + noise("107", 64, BASE64)
    + "\\n-----END EC PRIVATE KEY-----\\n",
    "minisign": "RWRTY0Iy" + noise("108", 200, BASE64),
    "cosign": "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"
    + noise("109", 64, BASE64)
    + "\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----",
    "docker oat": "dckr_oat_" + noise("113", 32, URLSAFE),
    "hf org": "api_org_" + noise("114", 34),
    "sourcegraph": "sgp_" + noise("115", 16, HEX) + "_" + noise("116", 40, HEX),
    "snyk": "snyk_uat." + noise("118", 8, HEX) + "." + noise("119", 100, URLSAFE),
    "sonar 2": "sqp_" + noise("120", 40, HEX),
    "mailersend": "mlsn." + noise("123", 64, HEX),
    "resend": "re_" + noise("124", 8) + "_" + noise("125", 24),
    "onfido": "api_live." + noise("127", 11) + "." + noise("128", 32),
    "telnyx": "KEY" + noise("129", 32, UPPER) + "_" + noise("130", 22),
    "infracost": "ico-" + noise("131", 32),
    "polar": "polar_oat_" + noise("132", 43),
    "clerk": "sk_live_" + noise("133", 40),
    "stytch": "secret-live-" + noise("134", 36, URLSAFE),
    "workos": "sk_live_" + noise("135", 40),
    "buildkite agent": "bkat_" + noise("136", 40, HEX),
    "nats seed user": "SU" + noise("137", 55, BASE32) + "2",
    "nats seed account": "SA" + noise("138", 55, BASE32) + "2",
    "nats creds": "-----BEGIN USER NKEY SEED-----\nSU"
    + noise("139", 55, BASE32)
    + "2"
    + "\n------END USER NKEY SEED------",
    "scrypt hash": "$scrypt$ln=16,r=8,p=1$" + noise("142", 22) + "$" + noise("143", 43),
    "apr1": "$apr1$" + noise("144", 8) + "$" + noise("145", 22),
}
"""Secrets that are recognised by their own shape."""

_AROUND: tuple[tuple[str, str, str], ...] = (
    ("env tf", "TF_VAR_db_password=%s terraform plan", PASSWORD),
    ("env inline quoted", "env 'DB_PASS=%s' ./run", PASSWORD),
    ("docker -e", "docker run -e POSTGRES_PASSWORD=%s postgres", PASSWORD),
    ("docker --env", "docker run --env=POSTGRES_PASSWORD=%s postgres", PASSWORD),
    ("docker build-arg", "docker build --build-arg NPM_TOKEN=%s .", noise("n1", 36)),
    ("docker secret", "--secret id=x,env=Y TOKEN=%s", noise("n2", 30)),
    ("helm set", "helm upgrade x y --set auth.password=%s", PASSWORD),
    (
        "helm set-string",
        "helm install x --set-string db.adminPassword=%s,replicas=2",
        PASSWORD.replace(",", ""),
    ),
    ("kubectl token", "kubectl --token %s get pods", noise("n3", 40)),
    ("kubectl literal", "kubectl create secret generic x --from-literal=password=%s", PASSWORD),
    ("ansible -e", "ansible-playbook x.yml -e 'ansible_become_pass=%s'", PASSWORD),
    ("ansible json", 'ansible-playbook -e \'{"ansible_ssh_pass":"%s"}\'', PASSWORD),
    ("wget", "wget --http-password=%s https://x", PASSWORD),
    ("wget proxy", "wget --proxy-password %s https://x", PASSWORD),
    ("wget header", 'wget --header="X-Auth-Token: %s" u', noise("n4", 32)),
    ("curl H", 'curl -H "PRIVATE-TOKEN: %s" https://gitlab.x', noise("n5", 20)),
    ("curl H apikey", "curl -H 'apikey: %s' https://x", noise("n6", 40)),
    ("curl H ocp", "curl -H 'Ocp-Apim-Subscription-Key: %s' x", noise("n7", 32, HEX)),
    ("curl data", 'curl -d "username=me&password=%s" x', PASSWORD.replace("&", "")),
    ("curl json", 'curl --json \'{"password":"%s"}\' x', PASSWORD),
    ("curl F", "curl -F password=%s x", PASSWORD),
    ("curl bearer opt", "curl --oauth2-bearer %s x", noise("n8", 40)),
    ("curl proxy user", "curl -U me:%s x", PASSWORD),
    ("curl --proxy-user", "curl --proxy-user me:%s x", PASSWORD),
    ("curl pass", "curl --cert c.pem --pass %s x", PASSWORD),
    ("curl aws", "curl --aws-sigv4 aws:amz --user AK:%s x", noise("n9", 40)),
    ("psql url", 'psql "postgresql://me:%s@db/x"', PASSWORD),
    ("psql kv", 'psql "host=db user=me password=%s dbname=x"', PASSWORD),
    ("pg_dump", 'PGPASSWORD="%s" pg_dump x', PASSWORD),
    ("mysqldump", "mysqldump -uroot -p%s db", PASSWORD),
    ("mysql long", "mysql --password=%s db", PASSWORD),
    ("mongo", "mongosh --username me --password %s", PASSWORD),
    ("mongo -p", "mongosh -u me -p %s host", PASSWORD),
    ("redis env", "REDISCLI_AUTH=%s redis-cli ping", PASSWORD),
    ("redis url", "redis-cli -u redis://default:%s@h:6379", PASSWORD),
    ("rabbitmq", "rabbitmqctl add_user me %s", PASSWORD),
    ("rabbitmq change", "rabbitmqctl change_password me %s", PASSWORD),
    ("htpasswd", "htpasswd -b file me %s", PASSWORD),
    ("chpasswd", "echo 'root:%s' | chpasswd", PASSWORD),
    ("passwd stdin", "echo %s | passwd --stdin root", PASSWORD),
    ("sudo -S", "echo %s | sudo -S make install", PASSWORD),
    ("openssl passin", "openssl rsa -passin pass:%s -in k", PASSWORD),
    ("openssl pass", "openssl enc -aes-256-cbc -k %s -in f", PASSWORD),
    ("openssl passout", "openssl genrsa -passout pass:%s 2048", PASSWORD),
    ("gpg", "gpg --batch --passphrase %s -c f", PASSWORD),
    ("zip", "zip -P %s a.zip b", PASSWORD),
    ("unzip", "unzip -P %s a.zip", PASSWORD),
    ("7z", "7z x -p%s a.7z", PASSWORD),
    ("rsync", "RSYNC_PASSWORD=%s rsync x", PASSWORD),
    ("lftp", "lftp -u me,%s ftp.x", PASSWORD),
    ("ftp url", "ftp://me:%s@h/x", PASSWORD),
    ("smbclient", "smbclient //h/s -U me%%%s", PASSWORD),
    ("mount cifs", "mount -t cifs //h/s /m -o user=me,password=%s", PASSWORD),
    ("net use", "net use x: \\\\h\\s /user:me %s", PASSWORD),
    ("ldapsearch", "ldapsearch -x -D cn=me -w %s", PASSWORD),
    ("ssh-pass e", "SSHPASS=%s sshpass -e ssh h", PASSWORD),
    ("az login", "az login --service-principal -u x -p %s --tenant y", noise("n10", 34)),
    ("az storage", "az storage blob list --account-key %s", noise("n11", 86, BASE64) + "=="),
    ("az sas", 'az x --sas-token "sv=2022&sig=%s"', noise("n12", 44)),
    ("gcloud", "gcloud auth activate --access-token %s", noise("n13", 40)),
    ("gcloud sql", "gcloud sql users set-password root --password=%s", PASSWORD),
    ("aws cli", "aws rds modify-db-instance --master-user-password %s", PASSWORD),
    ("aws iam", "aws iam create-login-profile --user-name me --password %s", PASSWORD),
    (
        "aws cognito",
        "aws cognito-idp x --auth-parameters USERNAME=me,PASSWORD=%s",
        PASSWORD.replace(",", ""),
    ),
    (
        "aws put secret",
        "aws secretsmanager put-secret-value --secret-id x --secret-string %s",
        PASSWORD,
    ),
    ("ssm", "aws ssm put-parameter --name x --type SecureString --value %s", PASSWORD),
    ("heroku", "heroku config:set SECRET_KEY=%s", noise("n14", 50)),
    ("fly secrets", "fly secrets set API_TOKEN=%s", noise("n15", 30)),
    ("wrangler", "echo %s | wrangler secret put API_KEY", noise("n16", 40)),
    ("vercel", "vercel --token %s deploy", noise("n17", 24)),
    ("netlify", "netlify deploy --auth %s", noise("n18", 43)),
    ("vercel -t", "vercel deploy -t %s", noise("n19", 24)),
    ("gh", "GH_TOKEN=%s gh pr list", noise("n20", 40, HEX)),
    ("glab", "glab auth login --token %s", noise("n21", 20)),
    ("npm", "npm publish --//registry/:_authToken=%s", noise("n22", 36)),
    ("npm otp", "npm publish --otp=%s", "482913"),
    ("yarn", "YARN_NPM_AUTH_TOKEN=%s yarn", noise("n23", 36)),
    ("pip idx", "pip install -i https://me:%s@pypi.x/simple a", PASSWORD),
    ("uv", "UV_INDEX_ACME_PASSWORD=%s uv sync", PASSWORD),
    ("uv publish", "uv publish --token %s", noise("n24", 60)),
    ("poetry", "poetry publish -u me -p %s", PASSWORD),
    ("gem", "gem push --key %s", noise("n25", 48, HEX)),
    ("cargo env", "CARGO_REGISTRY_TOKEN=%s", noise("n26", 32)),
    ("mvn", "mvn deploy -Dgpg.passphrase=%s", PASSWORD),
    ("mvn settings", "<passphrase>%s</passphrase>", PASSWORD),
    ("gradle", "gradle publish -PossrhPassword=%s", PASSWORD),
    ("gradle prop", "signing.password=%s", PASSWORD),
    ("sbt", 'credentials += Credentials("Realm","h","me","%s")', PASSWORD),
    ("docker cfg", '"identitytoken": "%s"', noise("n27", 100)),
    ("codecov", "codecov -t %s", _uuid("n28")),
    ("sonar token", "sonar-scanner -Dsonar.token=%s", noise("n29", 40, HEX)),
    ("snyk", "snyk auth %s", _uuid("n30")),
    ("sentry-cli", "sentry-cli --auth-token %s releases", noise("n31", 64, HEX)),
    ("datadog", "DD_API_KEY=%s", noise("n32", 32, HEX)),
    ("datadog app", "DD_APP_KEY=%s", noise("n33", 40, HEX)),
    ("dd header", "DD-API-KEY: %s", noise("n34", 32, HEX)),
    ("ngrok", "ngrok authtoken %s", noise("n35", 49, URLSAFE)),
    ("ngrok2", "ngrok config add-authtoken %s", noise("n36", 49, URLSAFE)),
    ("tailscale", "tailscale up --authkey=%s", noise("n37", 40)),
    ("k3s", "K3S_TOKEN=%s", noise("n38", 60)),
    ("kubeadm", "kubeadm join 1.2.3.4:6443 --token %s", "abcdef." + noise("n39", 16, LOWER)),
    ("vault env", "VAULT_TOKEN=%s", noise("n40", 24)),
    ("vault write", "vault write auth/x secret_id=%s", _uuid("n41")),
    ("vault kv", "vault kv put secret/x password=%s", PASSWORD),
    ("consul", "consul acl x -token=%s", _uuid("n42")),
    ("pulumi", "pulumi config set --secret dbPassword %s", PASSWORD),
    ("tf", "terraform apply -var db_password=%s", PASSWORD),
    ("tf var q", 'terraform apply -var="db_password=%s"', PASSWORD),
    ("ansible vault", "ansible-vault encrypt_string %s --name x", PASSWORD),
    ("bw", "bw unlock %s", PASSWORD),
    ("bw env", "BW_SESSION=%s", noise("n43", 88, BASE64)),
    ("restic", "RESTIC_PASSWORD=%s", PASSWORD),
    ("borg", "BORG_PASSPHRASE='%s'", PASSWORD),
    ("duplicity", "PASSPHRASE=%s duplicity", PASSWORD),
    ("celery", "celery -b amqp://me:%s@h//", PASSWORD),
    ("amqp", "amqp://guest:%s@rabbit:5672/%%2f", PASSWORD),
    ("smtp", "smtp://me%%40x.com:%s@smtp.x:587", PASSWORD),
    ("jdbc", "jdbc:postgresql://h/db?user=me&password=%s", PASSWORD.replace("&", "")),
    ("jdbc oracle", "jdbc:oracle:thin:me/%s@//h:1521/x", PASSWORD),
    ("sqlplus", "sqlplus me/%s@db", PASSWORD),
    ("sqlalchemy", "create_engine('mysql://me:%s@h/db')", PASSWORD),
    ("odbc", "DRIVER={x};SERVER=h;UID=me;PWD=%s", PASSWORD.replace(";", "")),
    ("pymongo", "MongoClient('h', username='me', password='%s')", PASSWORD),
    (
        "kafka",
        'sasl.jaas.config=org.x.PlainLoginModule required username="me" password="%s";',
        PASSWORD,
    ),
    ("spring", "spring.datasource.password=%s", PASSWORD),
    ("django db", "'PASSWORD': '%s',", PASSWORD),
    ("rails", "secret_key_base: %s", noise("n44", 128, HEX)),
    ("laravel", "APP_KEY=base64:%s", noise("n45", 43, BASE64) + "="),
    ("wp", "define('AUTH_KEY', '%s');", noise("n46", 64)),
    ("wp db", "define( 'DB_PASSWORD', '%s' );", PASSWORD),
    ("flask", "app.secret_key = '%s'", noise("n47", 24)),
    ("node", 'process.env.SECRET = "%s"', noise("n48", 24)),
    ("php", '$password = "%s";', PASSWORD),
    ("perl", '$cfg{password} = "%s";', PASSWORD),
    ("ruby", 'password: "%s",', PASSWORD),
    ("java", '.password("%s")', PASSWORD),
    ("java set", 'setPassword("%s")', PASSWORD),
    ("kotlin", 'val apiKey = "%s"', noise("n49", 32)),
    ("swift", 'let apiSecret: String = "%s"', noise("n50", 32)),
    ("c#", 'Password = "%s"', PASSWORD),
    ("c define", '#define API_KEY "%s"', noise("n51", 32)),
    ("csharp conn", 'new NetworkCredential("me", "%s")', PASSWORD),
    ("ps", '$env:DB_PASSWORD = "%s"', PASSWORD),
    ("ps secure", 'ConvertTo-SecureString "%s" -AsPlainText -Force', PASSWORD),
    ("bat", "set DB_PASSWORD=%s", PASSWORD),
    ("ini", "[db]\npassword=%s\n", PASSWORD),
    ("properties", "db.password: %s", PASSWORD),
    ("hcl", 'password = "%s"', PASSWORD),
    ("nix", 'password = "%s";', PASSWORD),
    ("jsonnet", "password: '%s',", PASSWORD),
    ("url userinfo @", "postgres://me:%s@h:5432/db?sslmode=require", PASSWORD),
    ("http log", "GET /login?user=me&pass=%s HTTP/1.1", PASSWORD.replace("&", "")),
    ("http log2", '"POST /x?api_key=%s HTTP/1.1" 200', noise("n52", 32)),
    ("hdr x-amz", "x-amz-security-token: %s", noise("n53", 200, BASE64)),
    ("hdr xauth", "X-Auth-Token: %s", noise("n54", 32)),
    ("hdr xcsrf", "X-CSRF-Token: %s", noise("n55", 40)),
    ("hdr goog", "x-goog-api-key: %s", noise("n56", 39)),
    ("hdr functions", "x-functions-key: %s", noise("n57", 54)),
    ("hdr sec ws", "Sec-WebSocket-Protocol: bearer, %s", noise("n58", 40)),
    ("grpc md", "authorization=Bearer %s", noise("n59", 40)),
    (
        "aws sig",
        "Authorization: AWS4-HMAC-SHA256 Credential=x/y, SignedHeaders=h, Signature=%s",
        noise("n60", 64, HEX),
    ),
    ("hawk", 'Authorization: Hawk id="x", ts="1", nonce="n", mac="%s"', noise("n61", 44, BASE64)),
    ("oauth1", 'Authorization: OAuth oauth_token="%s"', noise("n62", 50)),
    ("negotiate", "Authorization: Negotiate %s", noise("n63", 200, BASE64)),
    ("ApiKey", "Authorization: ApiKey %s", noise("n64", 60, BASE64)),
    ("Token token=", 'Authorization: Token token="%s"', noise("n65", 32)),
    ("python dict", '{"pw": "%s"}', PASSWORD),
    ("passwd word", "passwd=%s", PASSWORD),
    ("pwd", "pwd: %s", PASSWORD),
    ("pass", "pass=%s", PASSWORD),
    ("credential", "credentials=%s", noise("n66", 40)),
    ("priv key name", "private_key_password=%s", PASSWORD),
    ("otp", "otp_secret=%s", noise("n67", 32, BASE32)),
    ("totp url", "otpauth://totp/x:me?secret=%s&issuer=x", noise("n68", 32, BASE32)),
    ("seed", "nkey_seed=%s", noise("n69", 58, UPPER)),
    ("license", "LICENSE_KEY=%s", noise("n70", 40, UPPER)),
    ("encryption", "ENCRYPTION_KEY=%s", noise("n71", 64, HEX)),
    ("hmac", "hmac_key: %s", noise("n72", 64, HEX)),
    ("jwt secret", "JWT_SECRET=%s", noise("n73", 64, HEX)),
    ("cookie secret", "COOKIE_SECRET=%s", noise("n74", 64, HEX)),
    ("session secret", 'sessionSecret: "%s"', noise("n75", 40)),
    ("webhook secret", "WEBHOOK_SECRET=%s", noise("n76", 40)),
    ("signing", "SIGNING_SECRET=%s", noise("n77", 32, HEX)),
    ("salt", "PASSWORD_SALT=%s", noise("n78", 32)),
    ("client secret id", "clientSecret=%s", noise("n79", 40)),
    ("consumer", "consumer_secret=%s", noise("n80", 50)),
    ("access key", "secretAccessKey: %s", noise("n81", 40, BASE64)),
    ("refresh", "refreshToken=%s", noise("n82", 60)),
    ("id token", "id_token: %s", noise("n83", 60)),
    ("bot", "BOT_TOKEN=%s", noise("n84", 40)),
    ("xml attr", '<user name="me" password="%s"/>', PASSWORD),
    ("xml pwd", "<pwd>%s</pwd>", PASSWORD),
    ("soap", '<wsse:Password Type="x">%s</wsse:Password>', PASSWORD),
    ("plist", "<key>password</key>\n<string>%s</string>", PASSWORD),
    ("yaml block", "password: |\n  %s\nuser: x", PASSWORD),
    ("yaml fold", "token: >-\n    %s\n", noise("n85", 40)),
    ("yaml quoted key", '"password": %s', PASSWORD),
    ("k8s secret", "data:\n  password: %s", _b64(PASSWORD)),
    ("k8s stringData", "stringData:\n  api-token: %s", noise("n86", 30)),
    ("compose", "environment:\n  - MYSQL_ROOT_PASSWORD=%s", PASSWORD),
    ("gha", "with:\n  token: %s", noise("n87", 40)),
    ("log kv", "level=info msg=login password=%s user=me", PASSWORD),
    ("log quote", 'msg="password=%s"', PASSWORD),
    ("traceback locals", "    password = '%s'", PASSWORD),
    ("repr obj", "Settings(db_password=SecretStr('%s'), x=1)", PASSWORD),
    ("dataclass", "Config(user='me', password='%s', port=1)", PASSWORD),
    ("kwargs", "connect(**{'password': '%s'})", PASSWORD),
    ("mysql temp", "A temporary password is generated for root@localhost: %s", PASSWORD),
    (
        "jenkins",
        "Please use the following password to proceed to installation:\n\n%s",
        noise("n92", 32, HEX),
    ),
    ("jupyter", "http://localhost:8888/?token=%s", noise("n93", 48, HEX)),
    ("jupyter lab", "http://127.0.0.1:8888/lab?token=%s", noise("n94", 48, HEX)),
    ("argo", "admin password is %s", PASSWORD),
    ("url enc", "password%%3D%s%%26x", noise("n95", 20)),
    ("b64 basic url", "https://%s:x-oauth-basic@github.com/a/b", noise("n96", 40, HEX)),
    ("x-access", "https://x-access-token:%s@github.com/a/b", noise("n97", 40)),
    (
        "git extraheader",
        "http.extraheader=AUTHORIZATION: basic %s",
        _b64("x-access-token:" + noise("n98", 40)),
    ),
    ("git cred", "protocol=https\nhost=x\nusername=me\npassword=%s", PASSWORD),
)
NAMED_MORE = tuple(Named(*row) for row in _AROUND)
"""Secrets that are recognised by their context; ``%s`` is their place."""
