# FRONT: sources of the answers of a gRPC server in C++. GRPC_FRONT: sources of the server itself, a library of its own where libgrpc++ is.
file(GLOB FRONT CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
file(GLOB GRPC_FRONT CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/grpc/*.cpp)
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(GRPCPP QUIET IMPORTED_TARGET grpc++ absl_synchronization)
endif()
