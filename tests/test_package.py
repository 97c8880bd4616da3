"""The package as it is installed: what a wheel holds, what it declares, and that all of it imports far from here."""

import ast
import json
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
OFFLINE = ('--quiet', '--disable-pip-version-check', '--no-deps', '--no-index')
LISTS = ('requirements.txt', 'requirements-cpu.txt', 'requirements-dev.txt')

IMPORT_ALL = """
import importlib, json, pkgutil
import dpc_jax
names = ['dpc_jax', *(found.name for found in pkgutil.walk_packages(dpc_jax.__path__, 'dpc_jax.'))]
print(json.dumps({name: importlib.import_module(name).__file__ for name in names}))
"""


def finish(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of_the_package():
    """Below the root of the checkout; what Python keeps beside the sources is no part of it."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'dpc_jax').rglob('*')
        if path.is_file() and path.parent.name != '__pycache__'
    }


def modules_of(files):
    return {
        '.'.join(pathlib.Path(f).with_suffix('').parts).removesuffix('.__init__') for f in files if f.endswith('.py')
    }


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of what the checkout tracks and a build might take, so that nothing is built in the checkout itself."""
    copy = tmp_path_factory.mktemp('checkout')
    for name in ('dpc_jax', 'configs', 'experiments', 'tests'):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns('__pycache__', 'results'))
    for name in ('pyproject.toml', 'README.md', 'LICENSE', 'run.py'):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope='module')
def wheel(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    finish(
        *(sys.executable, '-m', 'pip', 'wheel', *OFFLINE, '--no-build-isolation', '--wheel-dir', folder, checkout),
        cwd=folder,
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope='module')
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture
def fresh(tmp_path):
    """The Python of a new environment with the dependencies of the running one, and nothing of this checkout."""
    finish(sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'fresh', cwd=tmp_path)
    (site_packages,) = (tmp_path / 'fresh/lib').glob('python*/site-packages')
    # A folder that a .pth names is searched, and its own .pth files, such as that of the checkout, are not read.
    folders = sorted({sysconfig.get_path('purelib'), sysconfig.get_path('platlib')})
    (site_packages / 'dependencies.pth').write_text('\n'.join(folders))
    return tmp_path / 'fresh/bin/python'


def install(python, *what):
    finish(sys.executable, '-m', 'pip', '--python', python, 'install', *OFFLINE, *what, cwd=python.parent)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if '.dist-info/' not in name} == files_of_the_package()
    assert {'dpc_jax/spaces/dpc/space.py', 'dpc_jax/py.typed'} < set(names)


def test_every_folder_of_sources_is_a_package():
    folders = {path.parent for path in (ROOT / 'dpc_jax').rglob('*.py')}
    assert [str(folder) for folder in folders if not (folder / '__init__.py').exists()] == []


def test_the_wheel_declares_name_version_and_licence(wheel, metadata):
    assert (metadata['Name'], metadata['Version']) == ('dpc_jax', PROJECT['version'])
    assert metadata['License-Expression'] == 'Apache-2.0'
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('licenses/LICENSE'))
        assert archive.read(name) == (ROOT / 'LICENSE').read_bytes()


def test_the_wheel_declares_the_ranges_and_extras_of_pyproject(metadata):
    declared = [Requirement(text) for text in metadata.get_all('Requires-Dist')]
    plain = {str(requirement) for requirement in declared if requirement.marker is None}
    assert plain == {str(Requirement(text)) for text in PROJECT['dependencies']}
    assert {'cuda12', 'dev'} <= set(metadata.get_all('Provides-Extra')) == set(PROJECT['optional-dependencies'])
    (cuda,) = (requirement for requirement in declared if "'cuda12'" in str(requirement.marker).replace('"', "'"))
    (jax,) = (requirement for requirement in declared if requirement.name == 'jax' and not requirement.marker)
    assert (cuda.name, cuda.extras, cuda.specifier) == ('jax', {'cuda12'}, jax.specifier)


def test_what_the_package_imports_is_declared():
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT['dependencies']}
    bring = packages_distributions()
    undeclared = {
        f'{name} of {path.relative_to(ROOT)}'
        for folder in ('dpc_jax', 'configs')
        for path in (ROOT / folder).rglob('*.py')
        for name in imported(path.read_text()) - sys.stdlib_module_names - {'dpc_jax', 'configs'}
        if not declared & {canonicalize_name(distribution) for distribution in bring[name]}
    }
    assert undeclared == set()


def imported(source):
    """The libraries that `source` imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split('.')[0] for name in names}


@pytest.mark.parametrize('name', LISTS)
def test_the_requirement_lists_read_pyproject(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith('#')]
    (extras,) = (re.fullmatch(r'--editable \.\[([\w,]+)\]', line)[1] for line in lines)
    assert set(extras.split(',')) <= set(PROJECT['optional-dependencies'])


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_imports_far_from_the_checkout(wheel, fresh, tmp_path):
    install(fresh, wheel)
    found = json.loads(finish(fresh, '-P', '-c', IMPORT_ALL, cwd=tmp_path))
    assert set(found) == modules_of(files_of_the_package())
    assert [file for file in found.values() if not pathlib.Path(file).is_relative_to(tmp_path / 'fresh')] == []
    beside = (
        "import importlib.util as u; print([n for n in ('configs', 'experiments', 'tests', 'run') if u.find_spec(n)])"
    )
    assert finish(fresh, '-P', '-c', beside, cwd=tmp_path) == '[]\n'


@pytest.mark.slow
def test_scripts_run_from_any_folder_by_an_editable_install(checkout, fresh, tmp_path):
    install(fresh, '--no-build-isolation', '--editable', checkout)
    said = finish(
        fresh, '-c', 'import configs.common, dpc_jax; print(configs.__path__[0], dpc_jax.__file__)', cwd=tmp_path
    )
    assert said.split() == [str(checkout / 'configs'), str(checkout / 'dpc_jax/__init__.py')]
    done = subprocess.run(
        [fresh, checkout / 'experiments/report_study.py', '--help'], cwd=tmp_path, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b'')


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} < set(citation)
    assert (citation['version'], citation['license']) == (PROJECT['version'], PROJECT['license'])
    papers = [identifier['value'] for paper in citation['references'] for identifier in paper['identifiers']]
    assert papers == ['arXiv:1809.04184', 'arXiv:1810.10804']
    versions = re.findall(r'^## \[(.+)\]', (ROOT / 'CHANGELOG.md').read_text(), flags=re.MULTILINE)
    assert versions[:2] == ['Unreleased', PROJECT['version']]
