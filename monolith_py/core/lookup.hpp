// Look-up of fids, and of how a batch is shared out among the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "id_map.hpp"
#include "kernels.hpp"
#include "thread_pool.hpp"

namespace monolith {

// Fids of one feature of a batch and where their rows go.
struct Lookup {
    const int64_t* fids;
    size_t n;
    uint32_t* rows;
};

// How many parts n positions are worth, one thread each.
inline size_t parts_of(size_t n, size_t per_part) {
    return std::min<size_t>(static_cast<size_t>(ThreadPool::instance().num_threads()), n / per_part + 1);
}

// Share n positions out among the threads.
template <typename F>
void split(size_t n, F&& run) {
    const size_t parts = parts_of(n, 4096);
    ThreadPool::instance().run(parts, [&](size_t part) { run(n * part / parts, n * (part + 1) / parts); });
}

inline void find_rows_part(const IdMap& map, const Lookup& lookup, size_t part, size_t parts) {
    const size_t begin = lookup.n * part / parts, end = lookup.n * (part + 1) / parts;
    kernels().find(map.view(), lookup.fids + begin, end - begin, lookup.rows + begin);
}
inline void find_rows(const IdMap& map, const Lookup& lookup) {
    const size_t parts = parts_of(lookup.n, 4096);
    ThreadPool::instance().run(parts, [&](size_t part) { find_rows_part(map, lookup, part, parts); });
}

}  // namespace monolith
