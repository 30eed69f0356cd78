"""A contract for the import checker, which knows circles of packages only."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
from importlinter import Contract, ContractCheck, output


class NoFileCircles(Contract):
    """No file takes from one that takes from it, wherever in a file the imports stand, those of types included."""

    type_name = "no_file_circles"

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        # built anew: the graph of the other contracts leaves out what only type checkers import
        files = grimp.build_graph("toolkit", exclude_type_checking_imports=False, cache_dir=None)
        public_face = {"toolkit"}  # names what is public, for type checkers only, and is imported for its version
        arrows = {name: files.find_modules_directly_imported_by(name) for name in files.modules - public_face}
        try:
            TopologicalSorter(arrows).prepare()
        except CycleError as error:
            return ContractCheck(kept=False, metadata={"circle": error.args[1]})
        return ContractCheck(kept=True)

    def render_broken_contract(self, check: ContractCheck) -> None:
        output.print_error(" takes from ".join(reversed(check.metadata["circle"])))
