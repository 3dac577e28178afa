--- What came before vanishes; what follows is no LOAD.
-- table p: id int key, v int
-- insert p (1, 10)
-- truncate p
-- insert p (1, 11), (2, 2), (3, 3), (4, 4)

DELETE FROM `p`;
INSERT INTO `p` (`id`,`v`) VALUES (1,11),(2,2),(3,3),(4,4);
