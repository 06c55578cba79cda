"""Resource attributes of a run: project name, version control and CI system, from files and environment variables."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from spanbus._project import (
    attributes_given,
    ci_attributes,
    git_attributes,
    project_name,
    resource_attributes,
    service_name,
    web_url,
)
from spanbus.errors import InputError


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("pyproject.toml", '[project]\nname = "shop"\n', "shop"),
        ("pyproject.toml", '[tool.poetry]\nname = "old-shop"\n', "old-shop"),
        ("package.json", '{"name": "@acme/shop"}', "@acme/shop"),
        ("Cargo.toml", '[package]\nname = "shop-rs"\n', "shop-rs"),
        ("go.mod", "module example.com/acme/shop\n\ngo 1.22\n", "shop"),
        ("go.mod", "module example.com/acme/shop/v2\n", "shop"),
        ("go.mod", 'module "example.com/acme/shop"\n', "shop"),
        ("go.mod", "module `example.com/acme/shop`\n", "shop"),
        ("go.mod", "// about it\nmodule (\n\texample.com/acme/shop\n)\n", "shop"),
        ("go.mod", "module(example.com/acme/shop)\n", "shop"),
        ("package.json", '\ufeff{"name": "shop-bom"}', "shop-bom"),
        ("pyproject.toml", '\ufeff[project]\r\nname = "shop-bom"\r\n', "shop-bom"),
    ],
)
def test_the_project_name_is_read_from_the_nearest_project_file(
    tmp_path: Path, file: str, text: str, name: str
) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    below = tmp_path / "src" / "deep"
    below.mkdir(parents=True)
    assert project_name(below) == name
    (below / "package.json").write_text('{"name": "nearer"}')
    assert project_name(below) == "nearer"


@pytest.mark.parametrize(
    "text",
    [
        "[tool.x]\n",
        "not toml [",
        '[project]\nname = ""\n',
        "[project]\nname = 3\n",
        "[project]\nname = " + "7" * 5_000,
        "[" * 5_000,
    ],
)
def test_a_project_file_without_a_name_is_skipped(tmp_path: Path, text: str) -> None:
    repository = tmp_path / "the-repository"
    (repository / ".git").mkdir(parents=True)
    (repository / "pyproject.toml").write_text(text)
    (repository / "package.json").write_text("[]")
    assert project_name(repository) == "the-repository"


def test_files_above_the_repository_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "above"\n')
    inner = tmp_path / "inner"
    (inner / ".git").mkdir(parents=True)
    assert project_name(inner) == "inner"


def test_the_default_service_name_is_spanbus(tmp_path: Path) -> None:
    assert project_name(tmp_path) == "spanbus"
    assert project_name(tmp_path / "gone") == "spanbus"


def test_the_environment_overrides_the_project_name(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert service_name({}, tmp_path) == "shop"
    assert (
        service_name({"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=my%20one"}, tmp_path)
        == "my one"
    )
    both = {"OTEL_SERVICE_NAME": "given", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"}
    assert service_name(both, tmp_path) == "given"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), *words],
            check=True,
            capture_output=True,
            env={
                **os.environ,
                **{
                    f"GIT_{who}_{what}": "x@example.com"
                    for who in ("AUTHOR", "COMMITTER")
                    for what in ("NAME", "EMAIL")
                },
            },
        )

    git("init", "-q", "-b", "feature/x")
    git("commit", "-q", "--allow-empty", "-m", "one")
    git("remote", "add", "fork", "git@example.com:me/shop.git")
    git("remote", "add", "origin", "https://user:secret@example.com/acme/shop.git")
    return tmp_path


def head_of(folder: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_version_control_is_read_from_its_files(repository: Path) -> None:
    below = repository / "a" / "b"
    below.mkdir(parents=True)
    expected = {
        "vcs.repository.url.full": "https://example.com/acme/shop",
        "vcs.ref.head.name": "feature/x",
        "vcs.ref.head.revision": head_of(repository),
    }
    assert expected.items() <= resource_attributes({}, below).items()
    subprocess.run(["git", "-C", str(repository), "pack-refs", "--all"], check=True)
    assert expected.items() <= resource_attributes({}, below).items()
    worktree = repository / "tree"
    subprocess.run(
        ["git", "-C", str(repository), "worktree", "add", "-q", "-b", "other", str(worktree)],
        check=True,
        capture_output=True,
    )
    assert {**expected, "vcs.ref.head.name": "other"}.items() <= resource_attributes(
        {}, worktree
    ).items()
    subprocess.run(["git", "-C", str(repository), "checkout", "-q", "--detach"], check=True)
    found = resource_attributes({}, below)
    assert "vcs.ref.head.name" not in found
    assert found["vcs.ref.head.revision"] == expected["vcs.ref.head.revision"]


@pytest.mark.parametrize("file", ["package.json", "pyproject.toml", "Cargo.toml", "go.mod"])
@pytest.mark.parametrize("what", ["a pipe", "too large", "a folder", "a link to a pipe"])
def test_a_pipe_or_device_in_place_of_a_project_file_does_not_block(
    tmp_path: Path, file: str, what: str
) -> None:
    repository = tmp_path / "the-repository"
    (repository / ".git").mkdir(parents=True)
    _in_the_place_of(repository / file, what)
    assert project_name(repository) == "the-repository"


@pytest.mark.parametrize(
    "file", ["HEAD", "config", "commondir", "packed-refs", "refs/heads/feature/x"]
)
@pytest.mark.parametrize("what", ["a pipe", "too large", "a folder", "a link to a pipe"])
def test_a_pipe_or_device_in_place_of_a_git_file_does_not_block(
    repository: Path, file: str, what: str
) -> None:
    whole = git_attributes(repository)
    path = repository / ".git" / file
    path.unlink(missing_ok=True)
    _in_the_place_of(path, what)
    found = git_attributes(repository)
    assert found.items() <= whole.items()


def _in_the_place_of(path: Path, what: str) -> None:
    match what:
        case "a pipe":
            os.mkfifo(path)
        case "a link to a pipe":
            os.mkfifo(path.with_name("pipe"))
            path.symlink_to("pipe")
        case "a folder":
            path.mkdir()
        case _:
            with path.open("wb") as file:
                file.truncate(1 << 40)


def test_a_pipe_named_git_is_not_a_repository(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".git")
    assert git_attributes(tmp_path) == {}


@pytest.mark.parametrize("name", ["shop.git", "shop"])
def test_a_bare_repository_is_read(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """Server-side git hooks run in a bare repository."""
    bare = tmp_path_factory.mktemp("srv") / name
    subprocess.run(
        ["git", "clone", "-q", "--bare", str(repository), str(bare)],
        check=True,
        capture_output=True,
    )
    for folder in (bare, bare / "hooks"):
        assert project_name(folder) == "shop"
        assert git_attributes(folder) == {
            "vcs.repository.url.full": str(repository),
            "vcs.ref.head.name": "feature/x",
            "vcs.ref.head.type": "branch",
            "vcs.ref.head.revision": head_of(repository),
        }


@pytest.mark.parametrize(
    ("config", "url"),
    [
        ('[remote "origin"]\n\turl = "https://example.com/a" ; ours\n', "https://example.com/a"),
        ('[remote "origin"]\n\turl = https://example.com/a # ours\n', "https://example.com/a"),
        ('[Remote "origin"]\n\tURL=https://example.com/a\n', "https://example.com/a"),
        ('[remote "origin"] ; ours\n\turl = https://example.com/a\n', "https://example.com/a"),
        ('[remote "origin"]\n\turl =\n', None),
        ('\ufeff[remote "origin"]\n\turl = https://example.com/a\n', "https://example.com/a"),
    ],
)
def test_the_remote_is_read_as_git_reads_it(repository: Path, config: str, url: str | None) -> None:
    (repository / ".git" / "config").write_text(config, encoding="utf-8")
    assert git_attributes(repository).get("vcs.repository.url.full") == url


@pytest.mark.parametrize("text", ["", "gitdir: /nowhere", "\x00", "ref: refs/heads/../../x"])
def test_a_broken_repository_gives_no_attributes(tmp_path: Path, text: str) -> None:
    (tmp_path / ".git").write_text(text)
    assert "vcs.ref.head.revision" not in git_attributes(tmp_path)


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("git@example.com:acme/shop.git", "https://example.com/acme/shop"),
        ("ssh://git@example.com:2222/acme/shop.git", "https://example.com/acme/shop"),
        ("https://token:x-oauth@example.com/acme/shop", "https://example.com/acme/shop"),
        ("https://example.com/acme/shop/", "https://example.com/acme/shop"),
        ("/srv/git/shop.git", "/srv/git/shop"),
        (r"C:\git\shop", r"C:\git\shop"),
        ("D:/git/shop.git", "D:/git/shop"),
        ("c:shop.git", "https://c/shop"),
        ("https://user:p@ss@example.com/acme/shop", "https://example.com/acme/shop"),
    ],
)
def test_a_remote_is_a_url_without_a_secret(remote: str, url: str) -> None:
    assert web_url(remote) == url


SYSTEMS = {
    "github": (
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_REPOSITORY": "acme/shop",
            "GITHUB_RUN_ID": "99",
            "GITHUB_RUN_ATTEMPT": "2",
            "GITHUB_SHA": "a" * 40,
            "GITHUB_REF": "refs/pull/7/merge",
            "GITHUB_REF_NAME": "7/merge",
            "GITHUB_HEAD_REF": "feature",
            "GITHUB_BASE_REF": "main",
            "RUNNER_NAME": "runner-1",
        },
        {
            "cicd.pipeline.run.id": "99",
            "cicd.pipeline.run.attempt": 2,
            "cicd.pipeline.run.url.full": "https://github.com/acme/shop/actions/runs/99",
            "cicd.worker.name": "runner-1",
            "vcs.repository.url.full": "https://github.com/acme/shop",
            "vcs.ref.head.name": "feature",
            "vcs.ref.head.revision": "a" * 40,
            "vcs.ref.base.name": "main",
            "vcs.change.id": "7",
        },
    ),
    "gitlab": (
        {
            "GITLAB_CI": "true",
            "CI_PIPELINE_ID": "5",
            "CI_PIPELINE_URL": "https://gitlab.com/acme/shop/-/pipelines/5",
            "CI_JOB_URL": "https://gitlab.com/acme/shop/-/jobs/6",
            "CI_PROJECT_URL": "https://gitlab.com/acme/shop",
            "CI_COMMIT_SHA": "b" * 40,
            "CI_COMMIT_REF_NAME": "main",
            "CI_MERGE_REQUEST_IID": "12",
        },
        {
            "cicd.pipeline.run.id": "5",
            "cicd.pipeline.run.url.full": "https://gitlab.com/acme/shop/-/pipelines/5",
            "cicd.pipeline.task.run.url.full": "https://gitlab.com/acme/shop/-/jobs/6",
            "vcs.repository.url.full": "https://gitlab.com/acme/shop",
            "vcs.ref.head.name": "main",
            "vcs.ref.head.revision": "b" * 40,
            "vcs.change.id": "12",
        },
    ),
    "jenkins": (
        {
            "JENKINS_URL": "https://ci.example.com/",
            "BUILD_TAG": "jenkins-shop-3",
            "BUILD_URL": "https://ci.example.com/job/shop/3/",
            "GIT_URL": "git@example.com:acme/shop.git",
            "GIT_COMMIT": "c" * 40,
            "GIT_BRANCH": "origin/main",
            "NODE_NAME": "built-in",
        },
        {
            "cicd.pipeline.run.id": "jenkins-shop-3",
            "cicd.pipeline.run.url.full": "https://ci.example.com/job/shop/3/",
            "cicd.worker.name": "built-in",
            "vcs.repository.url.full": "git@example.com:acme/shop.git",
            "vcs.ref.head.name": "main",
            "vcs.ref.head.revision": "c" * 40,
        },
    ),
    "buildkite": (
        {
            "BUILDKITE": "true",
            "BUILDKITE_BUILD_ID": "uuid",
            "BUILDKITE_BUILD_URL": "https://buildkite.com/acme/shop/builds/4",
            "BUILDKITE_RETRY_COUNT": "1",
            "BUILDKITE_BRANCH": "main",
            "BUILDKITE_COMMIT": "d" * 40,
            "BUILDKITE_PULL_REQUEST": "false",
        },
        {
            "cicd.pipeline.run.id": "uuid",
            "cicd.pipeline.run.url.full": "https://buildkite.com/acme/shop/builds/4",
            "cicd.pipeline.run.attempt": 2,
            "vcs.ref.head.name": "main",
            "vcs.ref.head.revision": "d" * 40,
        },
    ),
    "circleci": (
        {
            "CIRCLECI": "true",
            "CIRCLE_WORKFLOW_ID": "w",
            "CIRCLE_BUILD_URL": "https://circleci.com/gh/acme/shop/8",
            "CIRCLE_BRANCH": "main",
            "CIRCLE_SHA1": "e" * 40,
            "CIRCLE_PULL_REQUEST": "https://github.com/acme/shop/pull/31",
        },
        {
            "cicd.pipeline.run.id": "w",
            "cicd.pipeline.run.url.full": "https://circleci.com/gh/acme/shop/8",
            "vcs.ref.head.name": "main",
            "vcs.ref.head.revision": "e" * 40,
            "vcs.change.id": "31",
        },
    ),
    "azure": (
        {
            "TF_BUILD": "True",
            "BUILD_BUILDID": "77",
            "SYSTEM_COLLECTIONURI": "https://dev.azure.com/acme/",
            "SYSTEM_TEAMPROJECT": "shop",
            "SYSTEM_JOBATTEMPT": "1",
            "BUILD_SOURCEBRANCH": "refs/heads/main",
            "BUILD_SOURCEVERSION": "f" * 40,
            "SYSTEM_PULLREQUEST_PULLREQUESTID": "9",
        },
        {
            "cicd.pipeline.run.id": "77",
            "cicd.pipeline.run.url.full": "https://dev.azure.com/acme/shop/_build/results?buildId=77",
            "cicd.pipeline.run.attempt": 1,
            "vcs.ref.head.name": "main",
            "vcs.ref.head.revision": "f" * 40,
            "vcs.change.id": "9",
        },
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_variables_of_a_ci_system_become_resource_attributes(
    system: str, tmp_path: Path
) -> None:
    env, expected = SYSTEMS[system]
    assert ci_attributes(env) == expected
    found = resource_attributes(env, tmp_path)
    assert found["process.pid"] == os.getpid()
    assert found["host.name"]
    assert found["cicd.pipeline.run.id"] == expected["cicd.pipeline.run.id"]


@pytest.mark.parametrize("attempt", ["7" * 5_000, "٣", "²", "-1", "1.5"])
def test_an_attempt_that_is_not_a_number_is_a_string(attempt: str) -> None:
    env = {"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "1", "GITHUB_RUN_ATTEMPT": attempt}
    assert ci_attributes(env)["cicd.pipeline.run.attempt"] == attempt


def test_outside_of_ci_there_are_no_ci_attributes() -> None:
    assert ci_attributes({"GITHUB_ACTIONS": "false", "GITHUB_RUN_ID": "1"}) == {}


def test_attributes_of_the_caller_are_pairs() -> None:
    assert attributes_given(["team=core", "a.b=c=d", "x="]) == {
        "team": "core",
        "a.b": "c=d",
        "x": "",
    }
    for wrong in ("team", "=x", "a b=c"):
        with pytest.raises(InputError, match="key=value"):
            attributes_given([wrong])
