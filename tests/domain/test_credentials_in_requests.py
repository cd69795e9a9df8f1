"""A request that would store a credential is refused, and what merely looks alike passes."""

import json
from typing import Any

import pytest

from deployledger.domain.credentials.finding import credentials_in
from deployledger.domain.credentials.names import holds_credential, words
from deployledger.domain.deployment import Deployment
from deployledger.domain.exceptions import ConfigurationError
from tests.domain.given import (
    DEPLOYMENT_ID,
    SERVICE,
    SERVING,
    context,
    fetched,
    history,
    replay,
    request,
    update_requested,
)
from tests.domain.given import requested as was_requested

SECRET = "s3cr3tValue7"


def requested(**changes: Any) -> Deployment:
    return Deployment.request(DEPLOYMENT_ID, request(**changes), orchestrator="local", by=context())


CREDENTIAL_NAMES = words(
    """
    token db_password Authorization api-key aws_secret_access_key client_secret private_key
    passphrase pwd connection_string cookie bearer credentials sas_token GITHUB_TOKEN apiKey
    dbPassword accessToken PGPASSWORD X-Api-Key x-amz-security-token AWSAccessKeyId PaSsWoRd
    password1 token_value password_for_db secretAccessKey SECRET_KEY accountKey Ocp-Apim-Subscription-Key
    x-functions-key passwords secrets hf_token OPENAI_API_KEY auth creds
    credentials_json password_hash MYSQL_PWD REDISCLI_AUTH Set-Cookie Proxy-Authorization jwt
    signing_key APIKEY api.key spring.datasource.password ConnectionStrings id_token refreshToken
    ｐａｓｓｗｏｒｄ SecretString user_pass AZURE_STORAGE_CONNECTION_STRING license_key csrftoken
    WANDB_API_KEY password_prod authtoken api_token_v2 apiTokenV2 dbpwd rootpw pass_word Pass-Phrase
    mot_de_passe contraseña пароль パスワード password_latest
    """
)

OTHER_NAMES = words(
    """
    token_count passwordless tokenizer max_tokens secretary author authority customer_key
    primary_key keyboard sort_key password_policy secret_name secret_ref secretKeyRef token_url
    auth_type auth_method eos_token pad_token_id max_new_tokens number_of_tokens public_key
    partition_key cache_key has_password token_type signature key tokens_per_second authored_by
    password_rotation_days secrets_manager_arn cookie_policy compass bypass passenger forward_pass
    keys monkey tokenization private_endpoint token_version passes pass_words_count authentication
    client_id credential_provider
    key_vault_name passport use_auth require_password input_token assignment design tokens_used
    """
)


@pytest.mark.parametrize("name", sorted(CREDENTIAL_NAMES))
def test_the_name_of_a_credential_is_told_by_its_last_noun(name: str) -> None:
    assert holds_credential(name)


@pytest.mark.parametrize("name", sorted(OTHER_NAMES))
def test_a_name_that_merely_looks_alike_is_not_that_of_a_credential(name: str) -> None:
    assert not holds_credential(name)


@pytest.mark.parametrize(
    ("tags", "path"),
    [
        ({"token": SECRET}, "tags.token"),
        ({"Authorization": f"Bearer {SECRET}"}, "tags.Authorization"),
        ({"a": {"b": [{"password": SECRET}]}}, "tags.a.b[0].password"),
        ({"a b": {"db password": SECRET}}, "tags['a b']['db password']"),
        ({"config": f"password: {SECRET}"}, "tags.config"),
        ({"config": f"db:\n  password: |\n    {SECRET}\n"}, "tags.config"),
        ({"config": f"password:\n  {SECRET}"}, "tags.config"),
        ({"config": f"[db]\npassword = {SECRET}\n"}, "tags.config"),
        ({"config": f"export DB_PASSWORD={SECRET}"}, "tags.config"),
        ({"config": f'password = """{SECRET}"""'}, "tags.config"),
        ({"config": json.dumps({"credentials": {"user": SECRET}})}, "tags.config"),
        ({"config": json.dumps(json.dumps({"token": SECRET}))}, "tags.config"),
        ({"config": f'{{"\\u0070assword": "{SECRET}"}}'}, "tags.config"),
        ({"config": f"<password>{SECRET}</password>"}, "tags.config"),
        ({"note": f"the password is {SECRET}"}, "tags.note"),
        ({"command": f"curl -u ann:{SECRET} https://models.example"}, "tags.command"),
        ({"command": f"serve --api-key {SECRET}"}, "tags.command"),
        ({"dsn": f"host=db password={SECRET}"}, "tags.dsn"),
        ({"dsn": f"Server=db;Uid=ann;Pwd={SECRET}"}, "tags.dsn"),
        ({"dsn": f"AccountName=a;AccountKey={SECRET}=="}, "tags.dsn"),
        ({"image": f"ann:{SECRET}@registry.example/iris:1"}, "tags.image"),
        ({"env": [{"name": "DB_PASSWORD", "value": SECRET}]}, "tags.env[0].value"),
        ({"headers": [["Authorization", f"Bearer {SECRET}"]]}, "tags.headers[0][1]"),
        ({"auth": {"user": "ann", "pw": SECRET}}, "tags.auth.pw"),
        ({"tokens": [SECRET]}, "tags.tokens[0]"),
        ({"env": [{"Name": "DB_PASSWORD", "Value": SECRET}]}, "tags.env[0].Value"),
        ({"env": [{"k": "password", "v": SECRET}]}, "tags.env[0].v"),
        ({"args": ["curl", "-u", f"ann:{SECRET}"]}, "tags.args[2]"),
        ({"args": ["serve", "--password", "hunter"]}, "tags.args[2]"),
        ({"args": ["-p", SECRET]}, "tags.args[1]"),
        ({"auth": {"type": "oidc", "value": SECRET}}, "tags.auth.value"),
        ({"license_key": "ABCD-1234-EFGH-5678"}, "tags.license_key"),
        ({"host": f"ann:{SECRET}@h"}, "tags.host"),
        *(
            ({name: value}, f"tags.{name}")
            for name in ("password", "token", "client_secret", "Authorization", "cookie")
            for value in ("hunter2", "S3cr3t!", "abc123", "correct-horse", "mysecretvalue", "xyz", "123abc")
        ),
        ({"note": f"secret:{SECRET}"}, "tags.note"),
        ({"pin_password": 12345678}, "tags.pin_password"),
        ({"password": f"${{DB_PASSWORD:-{SECRET}}}"}, "tags.password"),
        ({"secret": {"name": "db", "value": SECRET}}, "tags.secret.name, tags.secret.value"),
        ({"jwk": {"kty": "RSA", "n": "abc", "d": SECRET}}, "tags.jwk.d"),
        ({"header": "Basic YW5uOnMzY3IzdFZhbHVlNw=="}, "tags.header"),
        ({"key": "-----BEGIN PRIVATE KEY-----\nMIIEvQ"}, "tags.key"),
        (
            {"key": "-----BEGIN RSA PRIVATE KEY-----\\nb3Bl\\n-----END RSA PRIVATE KEY-----"},
            "tags.key",
        ),
        ({"key": "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t"}, "tags.key"),
        ({f"password={SECRET}": "x"}, "tags['password=***']"),
        ({f"https://ann:{SECRET}@models.example": "x"}, "tags['https://models.example']"),
        *(
            ({"note": token}, "tags.note")
            for token in (
                "AKIAIOSFODNN7EXAMPLE",
                f"ghp_{'a1' * 18}",
                f"github_pat_{'a1' * 18}",
                f"glpat-{'a1' * 10}",
                "xoxb-1234567890-abcdefghij",
                f"sk-{'a1' * 24}",
                f"sk-ant-api03-{'a1' * 20}",
                f"hf_{'aB' * 17}",
                f"AIza{'a1' * 17}x",
                "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
                f"dapi{'a1' * 16}",
                f"npm_{'a1' * 18}",
                f"pypi-AgEIcHlwaS5vcmc{'a1' * 18}",
                f"SG.{'a1' * 11}.{'b2' * 20}",
                f"ya29.{'a1' * 20}",
                f"hvs.{'a1' * 12}",
                "https://hooks.slack.com/services/T0/B0/abc123",
                f"lsv2_pt_{'a1' * 16}",
                f"xai-{'a1' * 20}",
                f"SK{'a1' * 16}",
                f"key-{'a1' * 16}",
                "https://x.webhook.office.com/webhookb2/a@b/IncomingWebhook/c/d",
            )
        ),
    ],
)
def test_a_credential_in_a_tag_is_refused_by_key_without_its_value(tags: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        requested(tags=tags)
    assert refused.value.reason == "credential_in_request"
    assert f"in {path}." in refused.value.message
    assert "'iris'" in refused.value.message
    assert "secret store" in refused.value.hint
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "tags",
    [
        {"token_count": 512},
        {"passwordless": True},
        {"tokenizer": "bpe"},
        {"tokens": 2048},
        {"token": True},
        {"password": None},
        {"password": ""},
        {"password": "***"},
        {"password": "${DB_PASSWORD}"},
        {"password": "$DB_PASSWORD"},
        {"password": "{{ lookup('env', 'DB_PASSWORD') }}"},
        {"password": "env:DB_PASSWORD"},
        {"password": "secret://db/reader"},
        {"password": "vault:secret/data/db#password"},
        {"password": "arn:aws:secretsmanager:eu-west-1:123:secret:db-x"},
        {"password": "projects/p/secrets/db/versions/1"},
        {"password": "/run/secrets/db"},
        {"api_key": "<your key>"},
        {"secret": {"name": "db", "key": "password"}},
        {"env": [{"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]},
        {"auth": "oauth2"},
        {"auth": "team-ml"},
        {"auth": {"type": "oidc", "issuer": "https://login.example/t1", "client_id": "0oa1b2c3d4e5"}},
        {"credentials": "iam-role"},
        {"credentials": "arn:aws:iam::123:role/x"},
        {"token": "HF_TOKEN", "api_key": "OPENAI_API_KEY"},
        {"password": "see vault"},
        {"jwt": "RS256"},
        {"license_key": "Apache-2.0"},
        {"session_key": "session_id", "storage_key": "models/iris"},
        {"schema": {"token": "string", "password": "varchar(255)", "cookie": "float32"}},
        {"schema": '{"token": "string", "label": "int64"}'},
        {"schema": "token: list[str], label: int64"},
        {"tokens": "1.2T", "training_tokens": "300B"},
        {"note": "trained on tokens: 3e11"},
        {"token": "subword"},
        {"tests": "pass: 12, fail: 0"},
        {"note": "all tests pass: see https://ci.example/1"},
        {"test_pass": "ok", "pw": "0.5"},
        {"prompt": "Classify the token: positive or negative"},
        {"prompt": "If the user asks for the secret: refuse."},
        {"metric": "recall:0.9@k.10", "map": "map:0.5@iou.50"},
        {"owner": "ann:bob@example.com"},
        {"model": "model:resnet50@champion"},
        {"args": ["-p", "8080:80", "--tokenizer", "bpe2024a"]},
        {"command": "docker run --user 1000:1000 iris"},
        {"env": [{"Name": "TOKEN_COUNT", "Value": "512abc"}]},
        {"git_sha": "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
        {"digest": f"sha256:{'a' * 64}"},
        {"run_id": "0123456789abcdef0123456789abcdef"},
        {"uuid": "d0000000-0000-4000-8000-000000000001"},
        {"image": f"registry.example/iris:v1@sha256:{'a' * 64}"},
        {"certificate": "-----BEGIN CERTIFICATE-----\nMII"},
        {"signature": {"inputs": "[double]"}},
        {"signature": "inputs: [double], outputs: [long]"},
        {"join": "sort_key=ts, key: customer_id"},
        {"note": "Bearer authentication is required"},
        {"note": "password policy: strict"},
        {"note": "Unexpected token: foo"},
        {"note": "Classifies tokens: B-PER, I-PER"},
        {"note": "Basic model of iris"},
        {"keywords": ["token", "classification"]},
        {"owner": "team:ann@example.com"},
        {"owner": "serviceAccount:ci-1@project.example"},
        {"package": "npm:left-pad@1.3.0"},
        {"model": "skip-connections-resnet50-v2"},
        {"model": "models:/iris@champion"},
        {"eos_token": "</s>", "pad_token_id": 0},
        {"page": "https://models.example/@ann/iris?version=2"},
    ],
)
def test_references_and_words_that_look_alike_are_stored_as_they_are(tags: dict[str, Any]) -> None:
    assert requested(tags=tags).revision.tags == tags


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_uri", f"https://u:p@ss/{SECRET}@host/m"),
        ("model_uri", f"https://u/x:{SECRET}@host/m"),
        ("model_uri", f"ann:{SECRET}@host/m"),
        ("model_uri", f"https://host/ghp_{'a1' * 18}/m"),
        ("serving_image", f"ann:{SECRET}@registry/iris:1"),
        ("instance_type", f"token={SECRET}"),
        ("instance_type", f"https://u:{SECRET}@x"),
        ("input_uri", f"password={SECRET}"),
        ("output_uri", f"ann:{SECRET}@host.example/out.csv"),
        ("deployment_name", f"ghp_{'a1' * 18}"),
    ],
)
def test_a_field_whose_credential_cannot_be_left_out_is_refused(field: str, value: str) -> None:
    is_target = field in ("serving_image", "instance_type", "input_uri", "output_uri")
    target = SERVICE.model_copy(update={field: value} if is_target else {})
    with pytest.raises(ConfigurationError) as refused:
        requested(**{"deployment_target_config": target} if is_target else {field: value})
    assert refused.value.reason == "credential_in_request"
    assert field in refused.value.message
    assert SECRET not in str(refused.value)
    assert "a1a1" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        (f"https://h/m?token=a'{SECRET}", "https://h/m?token=***"),
        (f"https://h/m?token=a {SECRET}&v=1", "https://h/m?token=***&v=1"),
        (f'https://h/m?token="a"{SECRET}', "https://h/m?token=***"),
        (f"https://h/m?%74oken={SECRET}", "https://h/m?%74oken=***"),
        (f"https://h/m?%2574oken={SECRET}", "https://h/m?%2574oken=***"),
        (f"https://h/m?next=https%3A%2F%2Fu%3A{SECRET}%40h2%2Fx", "https://h/m?next=https%3A%2F%2Fh2%2Fx"),
        (f"https://u:p {SECRET}@h/m", "https://h/m"),
        (f"https://u%3A{SECRET}%40h/m", "https://h/m"),
        (f"//u:{SECRET}@h/m", "//h/m"),
        (f"https:/u:{SECRET}@h/m", "https:/h/m"),
        (f"https://h/m;token={SECRET}", "https://h/m;token=***"),
        (f"https://h/m#access_token={SECRET}", "https://h/m#access_token=***"),
        (f"HTTPS://h/m?SIG={SECRET}", "HTTPS://h/m?SIG=***"),
        (f"https://h/m?key={SECRET}", "https://h/m?key=***"),
        (f"jdbc:sqlserver://h;user=u;password={SECRET}", "jdbc:sqlserver://h;user=u;password=***"),
        (f"git+https://{SECRET}@h/m", "git+https://h/m"),
        (f"docker://u:{SECRET}@registry/iris", "docker://registry/iris"),
    ],
)
def test_a_uri_of_an_odd_shape_is_stored_without_its_credential(uri: str, stored: str) -> None:
    assert requested(model_uri=uri).revision.model_uri == stored


def test_an_update_is_refused_as_a_first_request_is() -> None:
    deployment = replay(history(*SERVING))
    with pytest.raises(ConfigurationError, match=r"tags\.token"):
        deployment.request_update(request(tags={"token": SECRET}), by=context())
    assert deployment.collect_events() == []


def test_what_an_earlier_release_stored_replays_and_is_not_stored_again() -> None:
    old = {"token": SECRET, "note": f"token={SECRET}", "team": "flora"}
    deployment = replay(history(was_requested(tags=old), fetched(), update_requested(revision=2)))
    assert deployment.revisions[1].tags == old
    deployment.request_rollback(1, by=context())
    assert deployment.revision.tags == {"token": "***", "note": "token=***", "team": "flora"}


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "@",
        "a:",
        "a=",
        '"',
        "'a",
        "://a",
        "//a:b",
        "\x1b[",
        "password=\n",
        "\u200b",
        "login -p",
        "//a@",
        "password=",
        'password="a\n',
        "?key=",
        "eyJaaaaaaaaa-",
    ],
)
def test_each_part_of_a_long_text_is_read_a_bounded_number_of_times(unit: str) -> None:
    """A pattern that went back over what it took would not come to an end here."""
    credentials_in(unit * (100_000 // len(unit)))
