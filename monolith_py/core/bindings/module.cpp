// The Python module: choice of instruction set, threads, hash, and the bindings of each part.
#include "bindings/module.hpp"

#include "bindings/arrays.hpp"
#include "index/hash.hpp"
#include "kernels/kernels.hpp"
#include "memory/thread_pool.hpp"

using namespace monolith;

NB_MODULE(_core, m) {
    nb::set_leak_warnings(false);  // objects that live until the interpreter ends are no leak
    using namespace nb::literals;
    m.def("simd_level", &simd_level);
    m.def("simd_levels", &simd_levels);
    m.def("set_simd_level", [](const std::string& level) {
        if (!set_simd_level(level)) refuse_unknown("level", level, simd_levels());
    });
    m.def("set_num_threads", [](int num_threads) {
        if (num_threads < 1) refuse("num_threads must be >= 1, got " + std::to_string(num_threads));
        nb::gil_scoped_release nogil;
        ThreadPool::instance().set_num_threads(num_threads);
    });
    m.def("num_threads", [] { return ThreadPool::instance().num_threads(); });
    m.def(
        "hash_fids",
        [](const Fids& fids) {
            std::vector<uint64_t> hashes(fids.size());
            for (size_t i = 0; i < fids.size(); ++i) hashes[i] = hash_fid(fids.data()[i]);
            return vector_array(hashes);
        },
        nb::arg("fids").noconvert());
    bind_id_map(m);
    bind_table(m);
    bind_packed_rows(m);
    bind_pooled(m);
    bind_interaction(m);
    bind_tower(m);
    bind_joiner_settings(m);
    bind_joined(m);
    bind_joiner(m);
    bind_kafka_records(m);
    bind_examples(m);
    bind_impressions(m);
    bind_replica(m);
    bind_fixed_model(m);
    bind_ranking(m);
    bind_ranked(m);
    bind_front(m);
}
