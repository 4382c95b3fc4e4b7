// Look-up of fids.
#pragma once

#include <cstdint>

#include "index/id_map.hpp"
#include "kernels/kernels.hpp"
#include "memory/thread_pool.hpp"

namespace monolith {

constexpr size_t kPerThread = 4096;  // minimum of positions per thread

// Fids of one feature of a batch, and the destination of their rows.
struct Lookup {
    const int64_t* fids;
    size_t n;
    uint32_t* rows;
};

inline void find_rows_part(const IdMap& map, const Lookup& lookup, size_t part, size_t parts) {
    const size_t begin = lookup.n * part / parts, end = lookup.n * (part + 1) / parts;
    kernels().find(map.view(), lookup.fids + begin, end - begin, lookup.rows + begin);
}
inline void find_rows(const IdMap& map, const Lookup& lookup) {
    const size_t parts = parts_of(lookup.n, kPerThread);
    ThreadPool::instance().run(parts, [&](size_t part) { find_rows_part(map, lookup, part, parts); });
}

}  // namespace monolith
