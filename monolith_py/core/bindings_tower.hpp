// Sparse linear stacks and their optimizers for Python.
#pragma once

#include <nanobind/nanobind.h>

void bind_tower(nanobind::module_& m);
