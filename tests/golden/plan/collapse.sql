--- Insert + update = insert; insert + delete = nothing; update + update = update; delete + insert = update.
--- An update + a delete = a delete; keys sorted.
-- table p: id int key, v int
-- insert p (1, 10), (2, 20)
-- update p (1, 10) -> (1, 11)
-- delete p (2, 20)
-- update p (9, 0), (8, 0) -> (9, 1), (8, 1)
-- update p (9, 1) -> (9, 2)
-- delete p (7, 0)
-- insert p (7, 1)
-- update p (6, 0) -> (6, 1)
-- delete p (6, 1), (5, 5)

DELETE /*+ INDEX(`p` `PRIMARY`) */ FROM `p` WHERE `id` IN (5,6);
UPDATE (VALUES ROW(7,1),ROW(8,1),ROW(9,2)) AS n(c0,c1) STRAIGHT_JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`v`=n.c1;
DO IF(ROW_COUNT()=3,0,(SELECT 1 UNION ALL SELECT 2));
INSERT INTO `p` (`id`,`v`) VALUES (1,11);
