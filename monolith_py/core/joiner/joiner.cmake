# JOINER: sources of the joiner of one partition.
file(GLOB JOINER CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
