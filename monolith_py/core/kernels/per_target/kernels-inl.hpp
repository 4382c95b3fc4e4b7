// All kernels. Each source of targets/ defines MONOLITH_KERNELS and includes this file. Everything here has internal
// linkage: the linker could otherwise pick one target's copy of a function for a machine that cannot run it.
#include "kernels/per_target/candidates-inl.hpp"
#include "kernels/per_target/dense-inl.hpp"
#include "kernels/per_target/interaction-inl.hpp"
#include "kernels/per_target/lookup-inl.hpp"
#include "kernels/per_target/pool-inl.hpp"
#include "kernels/per_target/replica-inl.hpp"
#include "kernels/per_target/row-inl.hpp"
#include "kernels/per_target/tower-inl.hpp"
#include "kernels/per_target/tower_backward-inl.hpp"
#include "kernels/per_target/tower_forward-inl.hpp"
#include "kernels/per_target/tower_update-inl.hpp"
#include "kernels/per_target/update-inl.hpp"

namespace monolith {

extern const Kernels MONOLITH_KERNELS;
const Kernels MONOLITH_KERNELS = {
    .find = find,
    .record_occurrences = record_occurrences,
    .gather = gather,
    .pool = pool,
    .sort_rows = sort_rows,
    .update = update,
    .start_row = start_row,
    .all_bounded = all_bounded,
    .encode = encode,
    .factorize = factorize,
    .factorize_back = factorize_back,
    .dots = dots,
    .dots_back = dots_back,
    .replica = {.pool = replica_pool},
    .tower =
        {
            .pack = tower_pack,
            .unpack = tower_unpack,
            .forward = tower_forward,
            .forward_rows = tower_forward_rows,
            .backward = tower_backward,
            .mask = tower_mask,
            .gradients = tower_gradients,
            .add = tower_add,
            .round = tower_round,
            .adam = tower_adam,
            .adagrad = tower_adagrad,
            .taylor = tower_taylor,
        },
    .dense =
        {
            .forward = dense_forward,
            .forward_pairs = dense_forward_pairs,
            .narrow = dense_narrow,
            .factorize_after = factorize_after,
            .cross_dots = cross_dots,
        },
};

}  // namespace monolith
