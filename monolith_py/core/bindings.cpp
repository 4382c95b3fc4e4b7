// The one file that knows Python.
#include <nanobind/nanobind.h>
NB_MODULE(_core, m) { m.attr("NO_ROW") = 0xFFFFFFFFu; }
