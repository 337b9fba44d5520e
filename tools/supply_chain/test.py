"""Tests of what checks the supply chain: python3 -B -m unittest supply_chain.test"""

import copy
import importlib.machinery
import importlib.util
import pathlib
import unittest

from supply_chain import cyclonedx


def script(name):
    path = str(pathlib.Path(__file__).parent.parent / name)
    loader = importlib.machinery.SourceFileLoader(name, path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


class Supply(unittest.TestCase):
    def setUp(self):
        self.supply = script("supply")

    def test_a_licence_expression_is_met_or_not(self):
        allow = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}
        for text, expected in {
            "MIT": True,
            "GPL-3.0": False,
            "GPL-3.0 OR MIT": True,
            "MIT/GPL-3.0": True,
            "MIT AND GPL-3.0": False,
            "GPL-3.0 OR MIT AND Apache-2.0": True,
            "(GPL-3.0 OR MIT) AND ISC": False,
            "(GPL-3.0 OR MIT) AND Apache-2.0": True,
            "Apache-2.0 WITH LLVM-exception": True,
            "Apache-2.0 WITH Classpath-exception-2.0": False,
        }.items():
            with self.subTest(text):
                self.assertEqual(self.supply.allowed(self.supply.tokens(text), allow), expected)
        for text in ("MIT OR", "(MIT", "MIT ISC", ""):
            with self.subTest(text), self.assertRaises((IndexError, ValueError)):
                self.supply.allowed(self.supply.tokens(text), allow)

    def test_what_is_wrong_is_said(self):
        package = {"name": "p", "version": "1.0.0", "license": None}
        self.supply.check_licences([package])
        self.supply.check_versions([package, package | {"version": "2.0.0"}])
        self.supply.check_sources([
            package | {"source": "git+https://example.org/p"},
            package | {"source": f"registry+{self.supply.RULES['sources']['allow-registry'][0]}"},
        ])
        self.assertEqual(len(self.supply.problems), 4, self.supply.problems)


class Sbom(unittest.TestCase):
    def test_damage_is_found(self):
        bom = script("sbom").bill()
        self.assertEqual(cyclonedx.problems(bom), [])
        names = {c["name"] for c in bom["components"]}
        # Of the program, of the agent, and of neither.
        self.assertLessEqual({"vmm", "smoltcp", "agent", "glibc"}, names)
        self.assertFalse({"proptest", "serde_derive", "libfuzzer-sys", "cc"} & names)
        for damage in (
            lambda b: b.pop("serialNumber"),
            lambda b: b.pop("components"),
            lambda b: b["components"][0].pop("licenses"),
            lambda b: next(c for c in b["components"] if "scope" in c).pop("hashes"),
            lambda b: b["components"].append(b["components"][0]),
            lambda b: b["dependencies"].pop(),
            lambda b: b["dependencies"][0].update(dependsOn=["pkg:cargo/nobody@1"]),
            lambda b: b["metadata"].update(timestamp="yesterday"),
        ):
            broken = copy.deepcopy(bom)
            damage(broken)
            self.assertNotEqual(cyclonedx.problems(broken), [])


if __name__ == "__main__":
    unittest.main()
